"""Run directories made by hand: an Optuna journal, and checkpoints of small networks trained on digits."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.config import SearchConfig, parse_config
from training import load_data, new_state, save_checkpoint, train
from training.config import TrialConfig

ENVIRONMENT = {"started_at": "2030-01-01T00:00:00+00:00", "command": "run_search.py", "versions": {}, "hardware": {}}


def small_config(**sections: dict[str, Any]) -> SearchConfig:
    """Of a search whose networks train in a moment."""
    base: dict[str, Any] = {
        "data": {"dataset": "digits", "image_size": 8, "crop_padding": 0, "flip": False},
        "model": {"depth": 1, "width": 4, "pooling": "none"},
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
        "train": {"epochs": 2, "batch_size": 64},
        "sampler": {"name": "random"},
        "scheduler": {"name": "none"},
    }
    return parse_config({**base, **sections}, {})


def trained_checkpoints(config: TrialConfig, place: Path, epochs: int | None = None) -> list[Path]:
    """Checkpoints of a training after each of its first epochs."""
    data, places = load_data(config.data), []
    state = new_state(config, data)
    for result in islice(train(state, data), epochs):
        places.append(place / str(result.epoch))
        save_checkpoint(state, places[-1], number=0)
    return places


@contextmanager
def edited_meta(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """What meta.json holds, to be changed."""
    meta = json.loads((checkpoint / "meta.json").read_text())
    yield meta
    (checkpoint / "meta.json").write_text(json.dumps(meta))


class MadeRun:
    """A run directory under construction."""

    def __init__(self, path: Path, config: SearchConfig) -> None:
        self.path, self.config = path, config
        path.mkdir(parents=True, exist_ok=True)
        self.defaults, self.distributions = config.search_space.default_params(), config.search_space.distributions()
        (path / "search.yaml").write_text(config.to_yaml())
        (path / "environment.json").write_text(json.dumps([ENVIRONMENT]))
        storage = JournalStorage(JournalFileBackend(str(path / "study.journal")))
        self.study = optuna.create_study(storage=storage, study_name="any name", direction="maximize")

    def trial(
        self,
        values: Sequence[float],
        state: TrialState | None = TrialState.COMPLETE,
        params: dict[str, Any] | None = None,
        constraint: float | None = None,
        **user_attrs: Any,
    ) -> int:
        """A trial that reported these val accuracies, by default the defaults; state None leaves it RUNNING.

        Its number.
        """
        params = self.defaults if params is None else params
        self.study.enqueue_trial(params)
        trial = self.study.ask({path: self.distributions[path] for path in params})
        for epoch, value in enumerate(values, start=1):
            trial.report(value, epoch)
        for key, value in user_attrs.items():
            trial.set_user_attr(key, value)
        if constraint is not None:
            trial.set_constraint("feasible", constraint)
        if state is not None:
            self.study.tell(trial, values[-1] if state == TrialState.COMPLETE else None, state)
        return trial.number

    def trained(
        self, checkpoints: list[Path], state: TrialState | None = TrialState.COMPLETE, **about: Any
    ) -> tuple[int, list[Path]]:
        """A trial that reported what its checkpoints hold, of which it keeps copies: its number, and the copies."""
        number = self.trial(self.recorded(checkpoints[-1]), state, **about)
        return number, [self.checkpoint(number, source, index) for index, source in enumerate(checkpoints)]

    def checkpoint(self, number: int, source: Path, index: int = 0, ray_id: str = "a1b2c") -> Path:
        """A copy of a checkpoint where Ray would have put it."""
        return shutil.copytree(source, self.path / f"trial_{number:04d}_{ray_id}" / f"checkpoint_{index:06d}")

    @staticmethod
    def recorded(checkpoint: Path) -> list[float]:
        """val_accuracy of each epoch, read from meta.json without the project's code."""
        return [result["val_accuracy"] for result in json.loads((checkpoint / "meta.json").read_text())["results"]]
