"""Every hook into Ray's insides: the only file that names something private of Ray.

Each one says which loss it prevents, or what it buys by `tests/benchmarks/hooks.py`. If what it touches is not there,
as in a newer Ray, it leaves Ray as it is, with one line of warning. CONVSEARCH_HOOKS_OFF switches off those that it
names (`workers_ahead,ready_workers`), or `all`: a search then costs more seconds, or holds less, but works.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
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
    controller = tune_controller.get_trials.__self__  # behind a wrapper
    for hook in (ready_workers, every_error_is_a_death, a_death_counts_once, short_memory):
        tried(hook, controller)


def present(owner: Any, *names: str) -> None:
    """Raises AttributeError for a name that is not there."""
    for name in names:
        getattr(owner, name)


# The start


@contextlib.contextmanager
def while_starting(ahead: bool) -> Iterator[None]:
    """Around ray.init on this machine; `ahead`: its cores will all train a trial."""
    with contextlib.ExitStack() as undone:
        if ahead:
            tried(workers_ahead, undone)
        yield


def workers_ahead(undone: contextlib.ExitStack) -> None:
    """A worker for each core is started ahead of time, has imported what a trial needs, and is kept until it comes.

    With `ready_workers` this lets the first trial begin two seconds earlier. Ray's names of settings, not of code.
    """
    undone.enter_context(
        environment(
            RAY_prestart_worker_first_driver="1",
            RAY_preload_python_modules="search.workers.trainable",
            RAY_idle_worker_killing_time_threshold_ms="3600000",  # Ray's one second is less than imports and data take
            PYTHONPATH=os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
        )
    )


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for processes that this one starts meanwhile; what the user has given to Ray stays."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if name not in before or name == "PYTHONPATH"})
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


# The loop


def ready_workers(controller: Any) -> None:
    """Trials take workers that are ready: Tune would give each a runtime environment, and so a new process."""
    present(controller._class_cache, "get")
    if ray.get_runtime_context().runtime_env:  # workers of a cluster need it: they bring our code there
        return
    controller._class_cache.get = functools.cache(ray.remote)


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
