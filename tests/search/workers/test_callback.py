"""Why a trial failed: from the exceptions that Ray keeps, written as Ray's own Trial writes them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from search.record.storage import StorageError
from search.workers.callback import last_error, reason_of

NO_MEMORY = "1 Workers (tasks / actors) killed due to the node running low on memory. It was 3.8GB / 4.0GB (0.95)."


class Failing:
    """What Trial.handle_error needs, so that the files are Ray's."""

    is_restoring = False

    def __init__(self, place: Path) -> None:
        self.local_path, self.num_failures = str(place), 0
        self.run_metadata: Any = SimpleNamespace(num_failures=0, invalidate_cache=lambda: None)
        self.error_file, self.pickled_error_file = str(place / "error.txt"), str(place / "error.pkl")

    _handle_ray_actor_error, _handle_ray_task_error = Trial._handle_ray_actor_error, Trial._handle_ray_task_error
    fail = Trial.handle_error


def raised(error: Exception) -> Exception:
    """An error as ray.get raises it where the worker did."""
    traceback = f"Traceback (most recent call last):\n  File x, line 1, in y\n{type(error).__name__}: {error}"
    return RayTaskError("train", traceback, error, "worker", 1, "127.0.0.1").as_instanceof_cause()


def of_numpy() -> Exception:
    with pytest.raises(MemoryError) as caught:
        np.empty(10**15)
    return caught.value


def of_torch() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(ValueError("no\nsecond line")), "ValueError: no"),
        (raised(ValueError()), "ValueError"),
        (raised(of_numpy()), "out of memory: numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.11 PiB"),
        (raised(of_torch()), "out of memory: RuntimeError: [enforce fail at alloc_cpu.cpp"),
        (raised(torch.OutOfMemoryError("CUDA out of memory.")), "out of memory: torch.OutOfMemoryError: CUDA out of"),
        (RayActorError(error_msg="It died.\n\tip: 1.2.3.4\nIts process has died."), "the worker died: Its process has"),
        (RayActorError(error_msg=NO_MEMORY), "out of memory: Ray ended the worker, as its node was running low (3.8GB"),
        (TuneError("the reset failed"), "the reset failed"),
    ],
)
def test_a_trial_fails_with_what_its_worker_raised(error: Exception, expected: str, tmp_path: Path) -> None:
    trial = Failing(tmp_path)
    trial.fail(raised(KeyError("an earlier try")))
    trial.fail(error)
    reason = reason_of(last_error(trial))
    assert reason.startswith(expected) and "\n" not in reason


def test_lost_storage_is_told_from_a_trials_own_failure_in_a_worker_and_in_this_process(tmp_path: Path) -> None:
    trial = Failing(tmp_path)
    trial.fail(raised(StorageError("the disk is full")))
    assert str(last_error(trial)) == "the disk is full" and isinstance(last_error(trial), StorageError)
    trial.fail(raised(ValueError("StorageError: only words")))
    assert not isinstance(last_error(trial), StorageError)
    here = "Traceback (most recent call last):\n  ...\nsearch.record.storage.StorageError: no answer: none\n"
    trial.fail(TuneError(here))
    assert str(last_error(trial)) == "no answer: none" and isinstance(last_error(trial), StorageError)


def test_without_any_word_of_ray_the_worker_died(tmp_path: Path) -> None:
    assert reason_of(last_error(Failing(tmp_path))) == "the worker died"
    assert reason_of(last_error(SimpleNamespace(error_file=None))) == "the worker died"
