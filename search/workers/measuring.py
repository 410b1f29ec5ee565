"""`--dry-run`: what a search would do and cost; networks are trained for some batches on the workers it would have.

Nothing is written but what loading data keeps.
"""

import time

import optuna
import ray
from ray.exceptions import RayError
from rich.console import Console

from search.config import SearchConfig
from search.estimate import Measurement, sample_networks
from search.feasibility import check_defaults
from search.record.run_directory import SearchError
from search.screen.dry_run import cost_table, print_space
from search.workers.cluster import workers
from search.workers.trainable import use_resources
from training.config import TrialConfig
from training.data import TrainData, load_data
from training.timing import time_epoch

SAMPLES = 24  # networks that are timed beside trial 0, or two for each worker where that is more
SECONDS_A_SAMPLE = 2.0  # of training at most
SECONDS_OF_SAMPLES = 15.0  # after that no further one is begun


def dry_run(config: SearchConfig, console: Console, started: float) -> None:
    """Print what a search would do and cost; `started` is the command's start by time.monotonic().

    Raises ConfigError, DataError and SearchError.
    """
    data = load_data(config.base.data)
    num_classes = len(data.train.class_names)
    check_defaults(config, num_classes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print_space(config, num_classes, console)
    console.print("Measuring: starting Ray as a search would, and training some networks for some batches.")
    console.print(cost_table(config, measure(config, data, started, console), num_classes))


def measure(config: SearchConfig, data: TrainData, started: float, console: Console) -> Measurement:
    """Epochs of trial 0 and of sampled networks, as many at a time as a search would train. Raises SearchError."""
    with workers(config, data, None, console) as share:
        resources = share.resources
        slots = min(filter(None, (share.slots, config.resources.max_concurrent, config.search.num_samples)))
        on_worker = ray.remote(num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0), max_retries=0)
        ray.wait([on_worker(use_resources).remote(resources) for _ in range(slots)], num_returns=slots)
        start_up_seconds = time.monotonic() - started  # workers have imported torch
        sampled = sample_networks(config, len(data.train.class_names), max(SAMPLES, 2 * slots))
        networks = [config.base, *(network for _, network in sampled)]
        shared, ends_at = ray.put(data), time.monotonic() + SECONDS_OF_SAMPLES
        begun, running = list[ray.ObjectRef](), list[ray.ObjectRef]()
        for network in networks:
            if len(running) == slots:
                _, running = ray.wait(running)
            if len(begun) > slots and time.monotonic() >= ends_at:
                break
            begun.append(on_worker(time_network).remote(network.model_dump_json(), shared, resources))
            running.append(begun[-1])
        defaults, *others = map(_outcome, begun)
    if isinstance(defaults, str):
        raise SearchError(f"trial 0, the defaults, could not be trained: {defaults}")
    seconds = tuple(each for each in others if isinstance(each, float))
    failures = tuple(each for each in others if isinstance(each, str))
    return Measurement(resources, slots, start_up_seconds, defaults, seconds, failures)


def _outcome(task: ray.ObjectRef) -> float | str:
    """What a task gave, or why it failed."""
    try:
        return float(ray.get(task))
    except RayError as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def time_network(config: str, data: TrainData, resources: dict[str, float]) -> float:
    """Seconds an epoch of a trial's config (JSON), on a worker."""
    return time_epoch(TrialConfig.model_validate_json(config), data, use_resources(resources), SECONDS_A_SAMPLE)
