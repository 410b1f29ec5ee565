"""Every hook into Ray's insides: the only file that names something private of Ray.

Each one says which loss it prevents. If what it touches is not there, as in a newer Ray, it leaves Ray as it is, with
one line of warning. CONVSEARCH_HOOKS_OFF switches off those that it names (`short_memory,a_death_counts_once`), or
`all`: a search then holds less, but works.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

SWITCH = "CONVSEARCH_HOOKS_OFF"
REMEMBERED = 50  # of the trials that have ended, the last ones: Ray may still tell of them


def is_off(hook: Callable[..., None]) -> bool:
    names = os.environ.get(SWITCH, "").split(",")
    return "all" in names or hook.__name__ in names


def tried(hook: Callable[..., None], *arguments: Any) -> None:
    """Put a hook in place, if it is not switched off and finds what it touches."""
    if is_off(hook):
        return
    try:
        hook(*arguments)
    except (ImportError, AttributeError) as error:
        what_for = (hook.__doc__ or "").partition("\n")[0]
        print(
            f"warning: Ray {ray.__version__} has changed ({error}): goes on without this: {what_for}", file=sys.stderr
        )


def mend(tune_controller: Any) -> None:
    """Put the hooks into a search's loop; `tune_controller` is what Ray Tune hands to a scheduler."""
    controller = getattr(tune_controller.get_trials, "__self__", None)  # what hides behind a wrapper
    for hook in (every_error_is_a_death, a_death_counts_once, short_memory):
        tried(hook, controller)


def present(owner: Any, *names: str) -> None:
    """Raises AttributeError for a name that is not there."""
    for name in names:
        getattr(owner, name)


def every_error_is_a_death(controller: Any) -> None:
    """A worker that Ray ends, for want of memory for instance, has died: else it would end the whole search."""
    manager = controller._actor_manager
    present(manager, "_actor_task_failed")

    class Manager(type(manager)):  # type: ignore[misc]
        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
                exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            super()._actor_task_failed(tracked_actor_task, exception)

    manager.__class__ = Manager


def a_death_counts_once(controller: Any) -> None:
    """A worker that dies between two trials costs the next one a single retry, and none waits for it for ever."""
    present(controller, "_trial_task_failure", "_resetting_trials")
    told: list[Exception] = []

    class Controller(type(controller)):  # type: ignore[misc]
        def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
            self._resetting_trials.discard(trial)  # else it would wait for a worker that is dead
            if not told or told[0] is not exception:
                told[:] = [exception]
                super()._trial_task_failure(trial, exception)

    controller.__class__ = Controller


def short_memory(controller: Any) -> None:
    """Trials are forgotten some time after they have ended: Ray would keep each, with 0.06 MiB of the driver's memory.

    By `tests/benchmarks/growth.py --trials random:2000`. Its search over many trials: ray-project/ray#64231.
    """
    sets = ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache")
    present(controller, "_set_trial_status", "step", "_trials", *sets)
    ended: dict[Any, None] = {}  # in the order of their ends

    class Controller(type(controller)):  # type: ignore[misc]
        def _set_trial_status(self, trial: Any, status: str) -> None:
            super()._set_trial_status(trial, status)
            ended.pop(trial, None)  # one that failed may start again
            if trial.is_finished():
                ended[trial] = None

        def step(self) -> None:
            super().step()
            while len(ended) > REMEMBERED:
                oldest = next(iter(ended))
                del ended[oldest]
                self._trials.remove(oldest)
                for trials in (getattr(self, name) for name in sets):
                    trials.discard(oldest)

    controller.__class__ = Controller
