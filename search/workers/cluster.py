"""Ray on this machine or a cluster that it is part of: joined, looked over, and shared among trials."""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from search.config import SearchConfig
from search.record.run_directory import SearchError
from search.record.run_storage import RunStorage
from search.record.storage import STORAGE_ERRORS, open_url
from search.workers import local_ray

if TYPE_CHECKING:  # else torch would be imported before Ray can start
    from training.data import TrainData

SECONDS_TO_ANSWER = 10.0  # for a cluster's head
PACKAGES = ("search", "training")  # what workers import
REFUSED = (
    "The Ray cluster at {address} does not let this program in: its authentication token is missing here or another. "
    "Copy the cluster's token to ~/.ray/auth_token on this machine, or set RAY_AUTH_TOKEN to it."
)
OPEN_CLUSTER = (
    "This Ray cluster is open: whoever reaches its ports can run programs on it. Guard it with a token: run "
    "`(umask 077; ray get-auth-token --generate) >/dev/null` once, copy ~/.ray/auth_token to every node, and start Ray "
    "there with RAY_AUTH_MODE=token."
)


@dataclass(frozen=True)
class Share:
    """What one trial gets, and how many trials run at a time."""

    resources: dict[str, float]
    slots: int


@contextlib.contextmanager
def workers(
    config: SearchConfig,
    data: "TrainData",
    storage: RunStorage | None,
    console: Console,
    ends_at: float | None = None,
) -> Iterator[Share]:
    """Start or join Ray, where `storage` is the run directory that all nodes must reach (None: there is none).

    `ends_at`: when the time budget is over, by time.monotonic(). Raises SearchError.
    """
    with ray_started(config, ends_at) as joined:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources_of = [node["Resources"] for node in nodes]
        check_memory(data, resources_of)
        if joined:
            look_over([node["NodeID"] for node in nodes], storage, console)
        fit_on_gpu = 1
        if config.resources.gpus_per_trial is None and any(node.get("GPU") for node in resources_of):
            from search.workers.gpu_share import trials_that_fit  # which imports torch

            fit_on_gpu = trials_that_fit(config, data, console)
        resources = trial_resources(config, resources_of, fit_on_gpu)
        yield Share(resources, count_slots(config, resources, resources_of, joined))


@contextlib.contextmanager
def ray_started(config: SearchConfig, ends_at: float | None = None) -> Iterator[bool]:
    """Start Ray on this machine, or join the cluster at the config's address or RAY_ADDRESS.

    Gives whether a cluster was joined. Raises SearchError.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    is_local = local_ray.is_local(config.resources.address)
    if is_local:
        local_ray.start(ends_at)
    else:
        _join(config.resources.address or os.environ["RAY_ADDRESS"])
    try:
        yield not is_local
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # failures are reported by our own words
    if "://" in address:
        raise SearchError(
            f"--address: {address} is Ray Client, through which no search runs. Run this program on a node of the "
            "cluster with --address auto, for instance by `ray job submit`."
        )
    host, _, port = address.rpartition(":")
    if port.isdecimal():  # Ray itself would try for a quarter of an hour
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
        except (OSError, OverflowError) as error:
            raise SearchError(
                f"--address: no Ray cluster answers at {address} ({error}). Start one there, or leave --address out."
            ) from None
    packages = [str(Path(sys.modules[name].__file__ or "").parent) for name in PACKAGES]
    # In a thread: in the main one Ray would take the handler of SIGTERM, and a signal could stop it half-way.
    with _stderr_to_file() as written, ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(
                ray.init,
                address=address,
                runtime_env=None if _job_ships_code() else {"py_modules": packages},
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            ).result()
            return
        except (AuthenticationError, RayError, OSError, ValueError, RuntimeError) as error:
            refused = isinstance(error, AuthenticationError) or "InvalidAuthToken" in written()
            why = REFUSED.format(address=address) if refused else f"no Ray cluster can be joined at {address}: {error}"
    raise SearchError(why)


def _job_ships_code() -> bool:
    """Whether this program is a submitted job that brought a working directory: then every worker has it too."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return "working_dir" in (job.get("runtime_env") or {})


@contextlib.contextmanager
def _stderr_to_file() -> Iterator[Any]:
    """Keep what Ray's own threads print off the terminal; gives a function that reads it."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), 100_000, 0).decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)


# Looking over the nodes of a cluster


def look_over(node_ids: Sequence[str], storage: RunStorage | None, console: Console) -> None:
    """Make sure that every node can import the code and reach the run directory, and warn of an open cluster.

    Raises SearchError.
    """
    report = ray.remote(num_cpus=0, max_retries=1)(report_of_node)
    with _probe(storage) as probe:
        there = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in node_ids]
        answers = [report.options(scheduling_strategy=node).remote(probe) for node in there]
        problems, is_open = [], False
        for answer in answers:
            try:
                guarded, problem = ray.get(answer)
            except RayError as error:
                guarded, problem = True, f"a node does not answer: {str(error).strip().splitlines()[-1]}"
            is_open |= not guarded
            problems += [problem] if problem else []
    if problems:
        raise SearchError("\n".join(dict.fromkeys(problems)))
    if is_open:
        console.print(Panel(Text(OPEN_CLUSTER), title="WARNING", border_style="bold yellow"))


@contextlib.contextmanager
def _probe(storage: RunStorage | None) -> Iterator[str | None]:
    """A new file in the run directory, by path or URL, there for as long as nodes are asked to read it."""
    if storage is None:
        yield None
        return
    name = f".probe-{secrets.token_hex(8)}"
    system, place = open_url(storage.for_workers(storage.path / name))
    with system.open_output_stream(place) as stream:
        stream.write(b"probe")
    try:
        yield storage.for_workers(storage.path / name)
    finally:
        for info in system.get_file_info([place, *(f"{place}.{node['NodeID']}" for node in ray.nodes())]):
            if info.is_file:
                system.delete_file(info.path)


def report_of_node(probe: str | None) -> tuple[bool, str | None]:
    """Run on a node: whether it is guarded by a token, and what keeps it from training, or None."""
    node = f"node {ray.util.get_node_ip_address()}"
    guarded = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    try:
        import search.workers.trainable  # noqa: F401
    except ImportError as error:
        return guarded, f"{node} cannot run trials ({error}). Install this project's requirements there."
    if probe is None:
        return guarded, None
    try:
        system, place = open_url(probe)
        with system.open_input_stream(place) as stream:
            stream.read()
        with system.open_output_stream(f"{place}.{ray.get_runtime_context().get_node_id()}") as stream:
            stream.write(b"probe")
    except STORAGE_ERRORS as error:
        directory = probe.partition("?")[0].rpartition("/")[0]
        return guarded, (
            f"{node} cannot read and write {directory} ({str(error).splitlines()[0]}). With several nodes the run "
            "directory must lie where all of them reach it: give --storage-path a shared directory, such as NFS, or a "
            "URL, such as s3://BUCKET/searches."
        )
    return guarded, None


# Sharing


def trial_resources(config: SearchConfig, nodes: Sequence[dict[str, float]], fit_on_gpu: int = 1) -> dict[str, float]:
    """What one trial gets. By default a core, and a share of a GPU where there are any. Raises SearchError.

    `fit_on_gpu`: how many trials a GPU's memory holds.
    """
    cpus, gpus = config.resources.cpus_per_trial, config.resources.gpus_per_trial
    if gpus is None:
        num_gpus = sum(node.get("GPU", 0.0) for node in nodes)
        num_cpus = sum(node.get("CPU", 0.0) for node in nodes)
        per_gpu = max(1, min(fit_on_gpu, int(num_cpus / cpus / max(num_gpus, 1.0))))
        gpus = 1 / per_gpu if num_gpus else 0.0
    wanted = {"CPU": cpus, "GPU": gpus}
    for kind, amount in wanted.items():
        most = max(node.get(kind, 0.0) for node in nodes)
        if amount > most:
            key, where = f"resources.{kind.lower()}s_per_trial", "" if len(nodes) == 1 else " on any one node"
            raise SearchError(f"{key}={amount:g}, but Ray has {most:g} {kind}(s){where}. Ask for less.")
    return {kind: amount for kind, amount in wanted.items() if amount}


def count_slots(
    config: SearchConfig, resources: dict[str, float], nodes: Sequence[dict[str, float]], joined: bool
) -> int:
    """How many trials run at a time; on a cluster that may grow, as many as `max_concurrent` asks for.

    Raises SearchError.
    """
    fit = sum(min(int(node.get(kind, 0.0) / amount) for kind, amount in resources.items()) for node in nodes)
    if fit == 0:
        raise SearchError(f"no node of the cluster has what one trial gets: {resources}. Ask for less.")
    if joined and config.resources.max_concurrent is not None:
        return max(fit, config.resources.max_concurrent)
    return fit


def check_memory(data: "TrainData", nodes: Sequence[dict[str, float]]) -> None:
    """Refuse data that the object store of a node cannot hold. Raises SearchError."""
    capacity = min(node.get("object_store_memory", float("inf")) for node in nodes)
    if data.num_bytes > 0.9 * capacity:
        raise SearchError(
            f"the data set takes {data.num_bytes / 2**30:.1f} GiB, Ray's object store {capacity / 2**30:.1f} GiB. "
            "Lower data.image_size, or start Ray with a larger --object-store-memory and give its --address."
        )
