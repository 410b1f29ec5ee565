"""Two places where Ray Tune makes more of a worker's death than it is, mended: tests/test_faults.py causes both.

A worker that Ray ends for want of memory ended the whole search, and one that died while it changed from one trial to
the next cost the new trial its retries.
"""

from typing import Any

import ray.tune.execution.tune_controller
import ray.tune.tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController


class ActorManager(RayActorManager):
    """Takes every error that Ray raises for a worker, such as OutOfMemoryError, as that worker's death."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


class Controller(TuneController):
    """Counts the death of a worker once, where Ray tells of it as the actor's failure and as its task's."""

    _told: Exception | None = None

    def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
        self._resetting_trials.discard(trial)  # else it would wait for ever for a worker that is dead
        if exception is not self._told:
            self._told = exception
            super()._trial_task_failure(trial, exception)


def mend_ray() -> None:
    """Let the next Tuner use both."""
    ray.tune.execution.tune_controller.RayActorManager = ActorManager
    ray.tune.tune.TuneController = Controller
