"""Ray on this machine alone: started beside the imports, without what only clusters need, its workers ready for trials.

By itself Ray Tune would start a process for each trial when it comes, and every one imports torch for seconds. Ray can
start workers ahead of time, one for each core, but ends those that are idle, and none of them fits a trial, to which
Tune gives a runtime environment of its own.
"""

import contextlib
import functools
import logging
import os
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from search.config import ResourcesConfig
from search.interruption import handlers_kept, held_back
from search.record.run_directory import SearchError


class LeanNode(ray._private.node.Node):
    """Ray's processes of a machine without three that only a dashboard, an autoscaler and a console would need."""

    def __init__(self, *arguments: Any, resources: ResourcesConfig, num_trials: int | None, **options: Any) -> None:
        self.trials = resources, num_trials
        super().__init__(*arguments, **options)

    def start_api_server(self, **options: Any) -> None:
        pass

    def start_monitor(self) -> None:
        pass

    def start_log_monitor(self) -> None:
        pass

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        found = self.get_resource_and_label_spec()
        ahead = fill_all_cores(*self.trials, found.num_cpus, found.num_gpus)
        with environment(RAY_prestart_worker_first_driver=str(int(ahead))):
            super().start_raylet(*arguments, **options)


def fill_all_cores(resources: ResourcesConfig, num_trials: int | None, num_cpus: float, num_gpus: float) -> bool:
    """Whether each core will train a trial: Ray starts a worker for every core ahead of time, or none.

    `num_trials`: that will train at most; None: there is no bound.
    """
    on_gpu = num_gpus > 0 if resources.gpus_per_trial is None else resources.gpus_per_trial > 0
    bounds = [bound for bound in (num_trials, resources.max_concurrent) if bound is not None]
    return resources.cpus_per_trial == 1 and not on_gpu and min(bounds, default=num_cpus) >= num_cpus


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that this process has inside, unless the user has given them, and not afterwards."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class ActorClasses:
    """The actors of trainables, as Tune's cache of them, but without a runtime environment.

    Tune's hands on environment variables of this program, which workers of the same machine have as it is.
    """

    def __init__(self) -> None:
        self.get = functools.cache(ray.remote)


def is_local(address: str | None) -> bool:
    """Whether an address asks for Ray on this machine alone; without one RAY_ADDRESS decides."""
    return (address or os.environ.get("RAY_ADDRESS")) in (None, "", "local")


def is_started_here() -> bool:
    """Whether this program's Ray is one that `start` has started."""
    return isinstance(ray._private.worker._global_node, LeanNode)


@contextlib.contextmanager
def starting_meanwhile(resources: ResourcesConfig, num_trials: int | None) -> Iterator[None]:
    """Start Ray on this machine while the block imports and loads what a search needs, both for seconds.

    `start` within it takes Ray over, and raises what went wrong. Where a cluster is joined, nothing happens.
    `num_trials`: that will train at most; None: there is no bound.
    """
    global _starting
    if not is_local(resources.address):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        _starting = pool.submit(_start_in_thread, resources, num_trials)
        try:
            yield
        finally:
            started, _starting = _starting, None
            if started is not None and started.exception() is None:
                with held_back():
                    ray.shutdown()


_starting: Future[None] | None = None


def start(resources: ResourcesConfig, num_trials: int | None) -> None:
    """Start Ray, or wait for the start in the background. Raises SearchError.

    With any other error `starting_meanwhile` ends Ray.
    """
    global _starting
    if _starting is not None:
        _starting.result()
        _starting = None
        return
    with held_back():
        _init(resources, num_trials)


def _start_in_thread(resources: ResourcesConfig, num_trials: int | None) -> None:
    with handlers_kept():
        _init(resources, num_trials)


def _init(resources: ResourcesConfig, num_trials: int | None) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray_node = ray._private.node.Node
    ray._private.node.Node = functools.partial(LeanNode, resources=resources, num_trials=num_trials)
    for_workers = environment(
        RAY_preload_python_modules="search.workers.preload",
        RAY_idle_worker_killing_time_threshold_ms="3600000",  # Ray's one second is less than imports and data take
    )
    try:
        with for_workers, _importable():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except (AuthenticationError, OSError, ValueError, RuntimeError) as error:
        raise SearchError(f"Ray cannot be started on this machine: {error}") from error
    finally:
        ray._private.node.Node = ray_node


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Where this program lies, for workers that have no trial yet: only with one would Ray tell them."""
    code, before = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    if code == sysconfig.get_path("purelib"):
        yield
        return
    os.environ["PYTHONPATH"] = code if not before else os.pathsep.join([code, before])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
