"""Ray on this machine alone: started beside the imports, without what only clusters need, its workers ready for trials.

By itself Ray Tune would start a process for each trial when it comes, and every one imports torch for seconds. Ray can
start workers ahead of time, one for each core, but ends those that are idle, and none of them fits a trial, to which
Tune gives a runtime environment of its own.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray.exceptions import AuthenticationError

from search.config import SearchConfig
from search.interruption import handlers_kept, held_back
from search.run_directory import SearchError


class LeanNode(ray._private.node.Node):
    """Ray's processes of a machine without three that only a dashboard, an autoscaler and a console would need."""

    def start_api_server(self, **options: Any) -> None:
        pass

    def start_monitor(self) -> None:
        pass

    def start_log_monitor(self) -> None:
        pass


class ActorClasses:
    """The actors of trainables, as Tune's cache of them, but without a runtime environment.

    Tune's hands on environment variables of this program, which workers of the same machine have as it is.
    """

    def __init__(self) -> None:
        self.get = functools.cache(ray.remote)


def is_local(address: str | None) -> bool:
    """Whether an address asks for Ray on this machine alone; None is RAY_ADDRESS."""
    return (address or os.environ.get("RAY_ADDRESS")) in (None, "", "local")


def is_started_here() -> bool:
    """Whether this program's Ray is one that `start` has started."""
    return isinstance(ray._private.worker._global_node, LeanNode)


@contextlib.contextmanager
def starting_meanwhile(config: SearchConfig) -> Iterator[None]:
    """Start Ray on this machine while the block imports and loads what a search needs, both for seconds.

    `start` within it takes Ray over, and raises what went wrong. Where a cluster is joined, nothing happens.
    """
    global _starting
    if not is_local(config.resources.address):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        _starting = pool.submit(_start_in_thread, config)
        try:
            yield
        finally:
            started, _starting = _starting, None
            if started is not None and started.exception() is None:
                with held_back():
                    ray.shutdown()


_starting: Future[None] | None = None


def start(config: SearchConfig) -> None:
    """Start Ray, or wait for the start in the background. Raises SearchError.

    With any other error `starting_meanwhile` ends Ray.
    """
    global _starting
    if _starting is not None:
        _starting.result()
        _starting = None
        return
    with held_back():
        _init(config)


def _start_in_thread(config: SearchConfig) -> None:
    with handlers_kept():
        _init(config)


def _init(config: SearchConfig) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    code = str(Path(__file__).parents[1])  # before a trial comes, workers do not know where this program found it
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", code)]
    environment = {
        "PYTHONPATH": os.pathsep.join([code, *others]),
        "RAY_prestart_worker_first_driver": str(int(fills_all_cores(config))),
        "RAY_preload_python_modules": "search.worker",
        "RAY_idle_worker_killing_time_threshold_ms": "60000",  # the command imports for longer than Ray's one second
    }
    os.environ.update(environment)
    ray._private.node.Node = LeanNode
    try:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except (AuthenticationError, OSError, ValueError, RuntimeError) as error:
        raise SearchError(f"Ray cannot be started on this machine: {error}") from error


def fills_all_cores(config: SearchConfig) -> bool:
    """Whether each core will train a trial: Ray starts a worker for every core ahead of time, or none."""
    resources = config.resources
    on_gpu = bool(resources.gpus_per_trial) or (resources.gpus_per_trial is None and count_gpus() > 0)
    bounds = [bound for bound in (config.search.num_samples, resources.max_concurrent) if bound is not None]
    cores = os.cpu_count() or 1
    return resources.cpus_per_trial == 1 and not on_gpu and min(bounds, default=cores) >= cores


def count_gpus() -> int:
    """Of this machine, as Ray finds them."""
    return int(get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators())
