"""Training as Ray Tune sees it: the only code that calls tune.get_checkpoint and tune.report."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune

from training import load_state, new_state, save_checkpoint, train
from training.checkpoint import CheckpointError
from training.config import TrialConfig
from training.data import TrainData
from training.loop import EpochResult, TrainState


def trainable(params: dict[str, Any], data: TrainData) -> None:
    """Train one trial from its newest checkpoint, reporting every epoch with a checkpoint.

    `params` holds number, trial_config (JSON) and start_from (a checkpoint directory or None).
    """
    device = use_resources(tune.get_context().get_trial_resources().required_resources)
    state = starting_state(params, data, device)
    if state.finished:  # the driver died between the last epoch and its record
        report(state, state.results[-1], params["number"])
    for result in train(state, data):
        report(state, result, params["number"])


def use_resources(resources: Mapping[str, float]) -> torch.device:
    """Keep to a trial's cores and give its device."""
    # A trial without a GPU of its own may still see the node's: the resources decide.
    device = torch.device("cuda" if resources.get("GPU", 0) > 0 else "cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what this worker's last trial held
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    return device


def report(state: TrainState, result: EpochResult, number: int) -> None:
    """Hand one epoch and its checkpoint to Ray, which copies the checkpoint into the trial's directory."""
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(state, directory, number)
        tune.report(asdict(result), checkpoint=tune.Checkpoint.from_directory(directory))


def starting_state(params: dict[str, Any], data: TrainData, device: torch.device) -> TrainState:
    """Ray's own checkpoint after a worker's death, else the one that resume found, else a new network."""
    config = TrialConfig.model_validate_json(params["trial_config"])
    with ExitStack() as stack:
        for directory in _candidates(params, stack):
            try:
                return load_state(directory, data, device)
            except CheckpointError as error:
                print(f"trial {params['number']}: {error}; trying what came before it")
    return new_state(config, data, device)


def _candidates(params: dict[str, Any], stack: ExitStack) -> Iterator[Path]:
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        yield Path(stack.enter_context(checkpoint.as_directory()))
    if params["start_from"] is not None:
        yield Path(params["start_from"])
