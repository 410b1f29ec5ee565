"""`--dry-run`: the resolved config, the space, some of its networks layer by layer, and what a search would cost.

Networks train for some batches on the workers that a search would have. Nothing is written but what loading data keeps.
"""

import time
from itertools import islice
from statistics import median

import optuna
import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.config import SearchConfig
from search.estimate import (
    Measurement,
    affordable_trials,
    describe_bytes,
    describe_seconds,
    expected_bytes,
    expected_epochs,
    expected_seconds,
)
from search.feasibility import check_defaults, feasible_networks
from search.record.run_directory import SearchError
from search.screen.progress import describe_params
from search.space import describe
from search.workers.cluster import workers
from search.workers.trainable import use_resources
from training.checkpoint import checkpoint_bytes
from training.config import TrialConfig
from training.data import TrainData, load_data
from training.layers import count_costs, network_layers
from training.timing import time_epoch

SHOWN = 3  # sampled networks, layer by layer
SAMPLES = 24  # networks that are timed beside trial 0, or two for each worker where that is more
TRIES = 1000  # proposals
COUNTED = 100  # proposals for the share of infeasible ones
SIZED = 100  # networks that are only counted
SECONDS_A_SAMPLE = 2.0  # of training at most
SECONDS_OF_SAMPLES = 15.0  # after that no further one is begun


def dry_run(config: SearchConfig, console: Console, started: float) -> None:
    """Print what a search would do and cost; `started` is the command's start by time.monotonic().

    Raises ConfigError, DataError and SearchError.
    """
    data = load_data(config.data)
    num_classes = len(data.train.class_names)
    check_defaults(config, num_classes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console.print(Text(config.to_yaml()))
    console.print(space_table(config))
    defaults = describe_params(config.search_space.default_params())
    console.print(network_table(config.base, num_classes, f"Trial 0, the defaults: {defaults}"))
    for title, network in sample_networks(config, num_classes, SHOWN):
        console.print(network_table(network, num_classes, f"Sampled: {title}"))
    console.print(
        f"Of {COUNTED} random proposals {1 - feasible_share(config, num_classes):.0%} are infeasible: "
        "gp passes them over; of other samplers they take a number and no training."
    )
    console.print("Measuring: starting Ray as a search would, and training some networks for some batches.")
    measured = measure(config, data, started, console)
    console.print(cost_table(config, measured, num_classes))


def space_table(config: SearchConfig) -> Table:
    table = Table("path", "distribution", "default", title="Search space")
    defaults = config.search_space.default_params()
    for path, entry in config.space.items():
        default = defaults.get(path, defaults.get(f"{path}.0", "inactive"))
        table.add_row(path, Text(describe(entry)), Text(str(default)))
    return table


def sample_networks(config: SearchConfig, num_classes: int, count: int) -> list[tuple[str, TrialConfig]]:
    """Up to `count` random feasible points of the space, the same at every call: (params in words, config)."""
    networks = islice(feasible_networks(config, num_classes, TRIES), count)
    return [(describe_params(params), network) for params, network in networks]


def feasible_share(config: SearchConfig, num_classes: int) -> float:
    """The share in [0, 1] of random points of the space that can be trained."""
    return sum(1 for _ in feasible_networks(config, num_classes, COUNTED)) / COUNTED


def network_table(config: TrialConfig, num_classes: int, title: str) -> Table:
    """A network layer by layer, with output shapes, parameters and multiply-adds."""
    table = Table("layer", "output shape", "params", "multiply-adds", title=Text(title), title_justify="left")
    for layer in network_layers(config.model, config.data.image_shape, num_classes):
        shape = " x ".join(map(str, layer.output_shape))
        table.add_row(layer.name, shape, f"{layer.num_params:,}", f"{layer.multiply_adds:,}")
    table.add_section()
    total_params, total_adds = count_costs(config.model, config.data.image_shape, num_classes)
    table.add_row("total", "", f"{total_params:,}", f"{total_adds:,}")
    return table


# What is measured


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


# What follows from it


def cost_table(config: SearchConfig, measured: Measurement, num_classes: int) -> Table:
    """What a search would cost, 80 columns wide."""
    table = Table("", "of a search with this config", title="Expected cost", width=80)
    each = " and ".join(f"{amount:g} {kind}" for kind, amount in measured.resources.items())
    table.add_row("concurrency", f"{measured.slots} at a time, {each} each")
    table.add_row("one epoch", describe_epoch_seconds(measured))
    if measured.failures:
        table.add_row("failing", Text(f"{len(measured.failures)} of the networks tried: {measured.failures[0]}"))
    num_trials = config.search.num_samples
    if config.search.time_budget is not None:
        affordable = affordable_trials(config, measured)
        table.add_row("trials", f"about {affordable} in the time budget of {config.search.time_budget}")
        num_trials = min(affordable, num_trials or affordable)
    if not num_trials:
        start_up = describe_seconds(measured.start_up_seconds)
        table.add_row("total time", f"{start_up} of start-up alone: give a longer time budget")
        return table
    epochs = expected_epochs(config, num_trials, measured.slots)
    lowest, expected, highest = (
        describe_seconds(expected_seconds(config, num_trials, number, measured))
        for number in (epochs.lowest, epochs.expected, epochs.highest)
    )
    if epochs.lowest == epochs.highest:
        table.add_row("epochs", f"{epochs.highest:.0f} for {num_trials} trials, as none is stopped")
        table.add_row("total time", f"about {expected}")
    else:
        between = f"{epochs.lowest:.0f} if proposals never got better, {epochs.highest:.0f} if no trial was stopped"
        table.add_row("epochs", f"about {epochs.expected:.0f} for {num_trials} trials: {between}")
        table.add_row("total time", f"about {expected}: {lowest} to {highest} for these epochs")
    disk = expected_bytes(num_trials, epochs.checkpoints, *sizes_of_checkpoints(config, num_classes))
    table.add_row("disk", f"about {describe_bytes(disk)}")
    return table


def describe_epoch_seconds(measured: Measurement) -> str:
    samples = measured.sampled_seconds
    defaults = f"{describe_seconds(measured.defaults_seconds)} for trial 0"
    if not samples:
        return defaults
    middle, low, high = (describe_seconds(seconds) for seconds in (median(samples), min(samples), max(samples)))
    return f"{middle} in the median of {len(samples)} random networks, {low} to {high}; {defaults}"


def sizes_of_checkpoints(config: SearchConfig, num_classes: int) -> tuple[int, list[int]]:
    """Bytes of a checkpoint of trial 0, and of random networks."""
    networks = [config.base, *(network for _, network in sample_networks(config, num_classes, SIZED))]
    defaults, *sampled = (
        checkpoint_bytes(network.optimizer, count_costs(network.model, network.data.image_shape, num_classes)[0])
        for network in networks
    )
    return defaults, sampled
