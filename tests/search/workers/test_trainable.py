"""Where a worker that starts again goes on from: the newest intact checkpoint, once its directory answers."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch
from bucket import bucket
from ray import tune

from search.config import SearchConfig
from search.record.storage import StorageError, open_url
from search.workers.trainable import starting_state
from training.checkpoint import read_meta
from training.data import TrainData

CPU = torch.device("cpu")


@pytest.fixture
def params(quick: SearchConfig) -> dict[str, Any]:
    trial_config = quick.base.model_dump_json()
    return {"number": 7, "trial_config": trial_config, "start_from": None, "storage_timeout": 0.0}


def test_a_worker_passes_over_damaged_checkpoints_in_a_bucket(
    params: dict[str, Any], quick_data: TrainData, trained_checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket() as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        system, root = open_url(place.url("run/trial_0007_x"))
        paths = [f"{root}/checkpoint_00000{index}" for index in range(3)]
        for source, path in zip(trained_checkpoints, paths, strict=False):
            pyarrow.fs.copy_files(str(source), path, destination_filesystem=system)
        nothing = tune.Checkpoint(paths[2], system)  # is left of the newest
        monkeypatch.setattr(tune, "get_checkpoint", lambda: nothing)
        for num_intact in (2, 1, 0):
            found, passed_over = starting_state(params, quick_data, CPU)
            assert len(found.results) == num_intact
            assert all(path in line for path, line in zip(paths[num_intact:], passed_over[::-1], strict=True))
            with system.open_output_stream(f"{paths[num_intact - 1]}/weights.pt") as stream:
                stream.write(b"garbage")


def test_a_worker_that_starts_again_waits_for_the_directory_of_its_checkpoints(
    tmp_path: Path,
    params: dict[str, Any],
    quick_data: TrainData,
    trained_checkpoints: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file system that is away for a moment is no damaged checkpoint: what was trained is not trained again."""
    place, away = tmp_path / "trial_0007_x", tmp_path / "away"
    checkpoint = tune.Checkpoint(str(shutil.copytree(trained_checkpoints[1], place / "checkpoint_000001")))
    for newest, start_from in ((checkpoint, None), (None, checkpoint.path)):
        monkeypatch.setattr(tune, "get_checkpoint", lambda newest=newest: newest)
        place.rename(away)
        threading.Timer(0.5, away.rename, [place]).start()
        again = {**params, "start_from": start_from, "storage_timeout": 60.0}
        found, passed_over = starting_state(again, quick_data, CPU)
        assert found.results == read_meta(trained_checkpoints[1])["results"] and not passed_over
        assert "answers again" in capsys.readouterr().out
    place.rename(away)
    with pytest.raises(StorageError, match="does not answer"):
        starting_state({**params, "start_from": checkpoint.path}, quick_data, CPU)
