"""Training as Ray Tune sees it: the only code that calls tune.get_checkpoint and tune.report."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import torch
from pyarrow.fs import FileSelector
from ray import tune

from search.record.storage import patiently
from training import load_state, new_state, save_checkpoint, train
from training.checkpoint import CheckpointError
from training.config import TrialConfig
from training.data import TrainData
from training.loop import EpochResult, TrainState


def trainable(params: dict[str, Any], data: TrainData) -> None:
    """Train one trial from its newest checkpoint, reporting every epoch with a checkpoint.

    `params` holds number, trial_config (JSON), start_from (path or URL of a checkpoint, or None) and storage_timeout
    (seconds).
    """
    device = use_resources(tune.get_context().get_trial_resources().required_resources)
    state, passed_over = starting_state(params, data, device)
    if state.finished:  # the driver died between the last epoch and its record
        report(state, state.results[-1], params, passed_over)
    for result in train(state, data):
        report(state, result, params, passed_over)
        passed_over = []


def use_resources(resources: Mapping[str, float]) -> torch.device:
    """Keep to a trial's cores and give its device."""
    # A trial without a GPU of its own may still see the node's: the resources decide.
    device = torch.device("cuda" if resources.get("GPU", 0) > 0 else "cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what this worker's last trial held
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    return device


def report(state: TrainState, result: EpochResult, params: dict[str, Any], passed_over: list[str]) -> None:
    """Hand one epoch and its checkpoint to Ray, which copies the checkpoint into the trial's directory.

    `passed_over`: what is wrong with checkpoints that training did not start from, for the driver to say. Tried again
    where storage does not answer, for `storage_timeout` seconds. Raises StorageError.
    """

    def save_and_report() -> None:
        with tempfile.TemporaryDirectory() as directory:
            save_checkpoint(state, directory, params["number"])
            try:
                metrics = {**asdict(result), "passed_over": passed_over}
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
            except RuntimeError as error:  # Ray's word for a run directory that is not there
                raise OSError(str(error).strip().partition("\n")[0]) from error

    patiently(save_and_report, params["storage_timeout"])


def starting_state(params: dict[str, Any], data: TrainData, device: torch.device) -> tuple[TrainState, list[str]]:
    """The newest intact checkpoint after a worker's death, else the one that resume found, else a new network.

    Also what is wrong with the checkpoints that were passed over. Raises StorageError where their directory does not
    answer for `storage_timeout` seconds.
    """
    config = TrialConfig.model_validate_json(params["trial_config"])
    passed_over: list[str] = []
    for checkpoint in patiently(lambda: list(_candidates(params)), params["storage_timeout"]):
        copy = checkpoint.path
        try:
            with checkpoint.as_directory() as copy:
                return load_state(copy, data, device, config), passed_over
        except (CheckpointError, FileNotFoundError) as error:
            passed_over.append(str(error).replace(str(copy), checkpoint.path))
    return new_state(config, data, device), passed_over


def _candidates(params: dict[str, Any]) -> Iterator[tune.Checkpoint]:
    """Raises one of STORAGE_ERRORS where the directory that holds them does not answer."""
    newest = tune.get_checkpoint()
    if newest is not None:
        yield newest
        files, name = newest.filesystem, PurePosixPath(newest.path).name
        older = [path for path in _beside(newest) if path.match("checkpoint_*") and path.name < name]
        for path in sorted(older, reverse=True):
            yield tune.Checkpoint(str(path), files)
    if params["start_from"] is not None:
        found_by_resume = tune.Checkpoint(params["start_from"])
        _beside(found_by_resume)
        yield found_by_resume


def _beside(checkpoint: tune.Checkpoint) -> list[PurePosixPath]:
    """What lies in the directory that a checkpoint lies in."""
    there = FileSelector(str(PurePosixPath(checkpoint.path).parent))
    return [PurePosixPath(info.path) for info in checkpoint.filesystem.get_file_info(there)]
