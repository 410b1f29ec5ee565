"""Where Ray Tune does not hold for long: tests/test_faults.py and tests/benchmarks/growth.py cause each of these.

A worker that Ray ends for want of memory ended the whole search; one that died while it changed from one trial to the
next cost the new trial its retries; and Ray keeps every trial that has ended, looks through all of them at every step,
and writes all of them into its snapshots.
"""

from pathlib import Path
from typing import Any

import ray.tune.execution.tune_controller
import ray.tune.tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController

from search.workers import local_ray


class ActorManager(RayActorManager):
    """Takes every error that Ray raises for a worker, such as OutOfMemoryError, as that worker's death."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


REMEMBERED = 50  # of the trials that have ended, the last ones: Ray may still tell of them


class Controller(TuneController):
    """Counts the death of a worker once, where Ray tells of it as the actor's failure and as its task's.

    Forgets trials some time after they have ended, and writes no snapshots of them: the study has them. Uses workers
    that were started ahead of time.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if local_ray.is_started_here():
            self._class_cache = local_ray.ActorClasses()
        self._told: Exception | None = None
        self._ended: dict[Any, None] = {}  # in the order of their ends

    def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
        self._resetting_trials.discard(trial)  # else it would wait for ever for a worker that is dead
        if exception is not self._told:
            self._told = exception
            super()._trial_task_failure(trial, exception)

    def _set_trial_status(self, trial: Any, status: str) -> None:
        super()._set_trial_status(trial, status)
        self._ended.pop(trial, None)  # one that failed may start again
        if trial.is_finished():
            self._ended[trial] = None

    def step(self) -> None:
        super().step()
        while len(self._ended) > REMEMBERED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._trials.remove(oldest)
            for trials in (self._live_trials, self._stopped_trials, self._failed_trials, self._trials_to_cache):
                trials.discard(oldest)

    def save_to_dir(self) -> None:
        file = Path(self.experiment_state_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"trial_data": []}')  # Ray looks for the file


def mend_ray() -> None:
    """Let the next Tuner use both."""
    ray.tune.execution.tune_controller.RayActorManager = ActorManager
    ray.tune.tune.TuneController = Controller
