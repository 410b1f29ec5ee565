"""Epochs extrapolated from some batches."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

import training.timing
from training import TrialConfig, load_data, new_state, train
from training.timing import Batch, extrapolate, time_epoch

BATCHES: list[Any] = [(torch.zeros(1), torch.zeros(1))] * 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves by hand: clock[0] is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(training.timing.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (6.0, 2), (7.0, 3), (1000.0, 10)])
def test_a_rate_is_extrapolated_from_the_batches_until_the_time_is_over(
    clock: list[float], seconds: float, count: int
) -> None:
    def work(batches: Iterable[Batch]) -> None:
        for _ in batches:
            clock[0] += 3.0

    assert extrapolate(work, BATCHES, seconds) == pytest.approx(30.0)  # type: ignore[arg-type]
    assert clock[0] == 3.0 * count


def test_an_epoch_is_timed_also_where_the_schedule_has_no_steps_to_spare() -> None:
    torch.set_num_threads(1)
    config = TrialConfig().override(
        {"data.dataset": "digits", "data.image_size": 16, "model.depth": 2, "train.epochs": 1, "train.batch_size": 512}
    )
    data = load_data(config.data)
    expected = time_epoch(config, data, seconds=0.1)
    trained = next(iter(itertools.islice(train(new_state(config, data), data), 1)))
    assert trained.epoch_seconds / 5 < expected < trained.epoch_seconds * 5  # other processes may run
