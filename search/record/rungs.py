"""What ASHA's rule means: the epochs at which trials are judged, and who is stopped there. Pure.

The stopping kind of Li et al., "A system for massively parallel hyperparameter tuning", 2020, as Ray's ASHAScheduler
has it, which a test compares it with.
"""

import math
from collections.abc import Sequence

import numpy as np


def milestones(grace_epochs: int, reduction_factor: float, epochs: int) -> list[float]:
    """Where the rungs lie, ascending: grace_epochs * reduction_factor**k, up to `epochs`."""
    count = int(np.log(epochs / grace_epochs) / np.log(reduction_factor) + 1)
    return [grace_epochs * reduction_factor**k for k in range(count)]


def rung_epochs(grace_epochs: int, reduction_factor: float, epochs: int) -> list[int]:
    """The epochs below `epochs` after which a trial is judged, ascending.

    Of rungs that a trial has reached it is judged at one after each epoch, so that rungs less than an epoch apart are
    made up for later.
    """
    rungs = milestones(grace_epochs, reduction_factor, epochs)
    judged: list[int] = []
    for epoch in range(1, epochs):
        if sum(rung <= epoch for rung in rungs) > len(judged):
            judged.append(epoch)
    return judged


def cutoff(values: Sequence[float], reduction_factor: float) -> float:
    """What a trial must reach at a rung not to be stopped, from the values of those before; NaN for the first."""
    return float(np.percentile(values, 100 * (1 - 1 / reduction_factor))) if len(values) else math.nan


class Rungs:
    """The rungs of one search, filled as trials reach them."""

    def __init__(self, grace_epochs: int, reduction_factor: float, epochs: int) -> None:
        self.reduction_factor = reduction_factor
        rungs = milestones(grace_epochs, reduction_factor, epochs)
        self.recorded: dict[float, dict[int, float]] = {rung: {} for rung in reversed(rungs)}  # by trial number

    def stops(self, number: int, epoch: int, val_accuracy: float) -> bool:
        """Record what a trial has after an epoch; whether it is stopped there."""
        for rung, recorded in self.recorded.items():
            if epoch >= rung and number not in recorded:
                limit = cutoff(list(recorded.values()), self.reduction_factor)
                recorded[number] = val_accuracy
                return val_accuracy < limit
        return False
