"""What `--dry-run` prints: the config, its space, some of its networks layer by layer, and what a search would cost."""

from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.config import SearchConfig
from search.estimate import (
    Measurement,
    affordable_trials,
    expected_bytes,
    expected_epochs,
    expected_seconds,
    feasible_share,
    sample_networks,
    sizes_of_checkpoints,
)
from search.screen.leaderboard import describe_params
from search.space import describe
from training.config import TrialConfig
from training.layers import count_costs, network_layers
from training.messages import compact, duration

SHOWN = 3  # sampled networks, layer by layer
COUNTED = 100  # proposals for the share of infeasible ones


def print_space(config: SearchConfig, num_classes: int, console: Console) -> None:
    """What can be said of a search without training anything."""
    console.print(Text(config.to_yaml()))
    console.print(space_table(config))
    defaults = describe_params(config.search_space.default_params())
    console.print(network_table(config.base, num_classes, f"Trial 0, the defaults: {defaults}"))
    for params, network in sample_networks(config, num_classes, SHOWN):
        console.print(network_table(network, num_classes, f"Sampled: {describe_params(params)}"))
    console.print(
        f"Of {COUNTED} random proposals {1 - feasible_share(config, num_classes, COUNTED):.0%} are infeasible: "
        "gp passes them over; of other samplers they take a number and no training."
    )


def space_table(config: SearchConfig) -> Table:
    table = Table("path", "distribution", "default", title="Search space")
    defaults = config.search_space.default_params()
    for path, entry in config.space.items():
        values = [str(defaults[name]) for name in entry.names(path, config.base.model.depth) if name in defaults]
        default = ", ".join(values if len(set(values)) > 1 else values[:1])  # one for all layers, or one for each
        table.add_row(path, Text(describe(entry)), Text(default or "inactive"))
    return table


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
        start_up = duration(measured.start_up_seconds)
        table.add_row("total time", f"{start_up} of start-up alone: give a longer time budget")
        return table
    epochs = expected_epochs(config, num_trials, measured.slots)
    lowest, expected, highest = (
        duration(expected_seconds(config, num_trials, number, measured))
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
    table.add_row("disk", f"about {compact(disk)}B")
    return table


def describe_epoch_seconds(measured: Measurement) -> str:
    samples = measured.sampled_seconds
    defaults = f"{duration(measured.defaults_seconds)} for trial 0"
    if not samples:
        return defaults
    middle, low, high = (duration(seconds) for seconds in (median(samples), min(samples), max(samples)))
    return f"{middle} in the median of {len(samples)} random networks, {low} to {high}; {defaults}"
