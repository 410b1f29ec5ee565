"""How long an epoch of a configuration takes, and how much of a GPU, from some of its batches."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.config import TrialConfig
from training.data import TrainData, batch_loader
from training.evaluate import evaluate, evaluation_batch
from training.loop import new_state, train_epoch

WARM_UP_BATCHES = 3  # the first ones also pay for memory and for the choice of kernels
CUDA_CONTEXT_BYTES = 2**29  # about what CUDA and its libraries take for a process beside what PyTorch allocates

Batch = tuple[Tensor, Tensor]


def time_epoch(config: TrialConfig, data: TrainData, device: torch.device | str = "cpu", seconds: float = 2.0) -> float:
    """The epoch_seconds to expect: training for about `seconds` and validation for half of that, extrapolated.

    A whole epoch if that takes less. Raises InfeasibleError.
    """
    train_loader = batch_loader(data.train, config.train.batch_size, device, torch.Generator())
    val_loader = batch_loader(data.val, evaluation_batch(config), device)
    # A state of its own to warm up: a schedule has no more steps than the config's epochs.
    train_epoch(new_state(config, data, device), data, islice(train_loader, WARM_UP_BATCHES))
    state = new_state(config, data, device)
    train_seconds = extrapolate(lambda batches: train_epoch(state, data, batches), train_loader, seconds)
    evaluate(state.model, islice(val_loader, 1))
    val_seconds = extrapolate(lambda batches: evaluate(state.model, batches), val_loader, seconds / 2)
    return train_seconds + val_seconds


def extrapolate(work: Callable[[Iterable[Batch]], object], loader: DataLoader[Batch], seconds: float) -> float:
    """Seconds that `work` would take for all batches of a loader, from doing it for about `seconds`, or for one batch.

    What `work` ends with is read from the device, and so comes with the end of the device's work.
    """
    started, count = time.perf_counter(), 0

    def first_batches() -> Iterator[Batch]:
        nonlocal count
        for batch in loader:
            count += 1
            yield batch
            if time.perf_counter() - started >= seconds:
                return

    work(first_batches())
    return (time.perf_counter() - started) / count * len(loader)


def peak_gpu_bytes(config: TrialConfig, data: TrainData, device: torch.device) -> tuple[int, int]:
    """(what training a configuration takes of a GPU at its highest, what this GPU has for such trials), in bytes.

    Both splits lie on the device, as in training. To be called in a process that holds nothing else there.
    """
    state = new_state(config, data, device)
    train_loader = batch_loader(data.train, config.train.batch_size, device, torch.Generator())
    val_loader = batch_loader(data.val, evaluation_batch(config), device)
    train_epoch(state, data, islice(train_loader, WARM_UP_BATCHES))
    evaluate(state.model, islice(val_loader, 1))
    taken = torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return taken, free + taken
