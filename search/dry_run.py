"""`--dry-run`: the resolved config, the space, and three sampled configurations with their layer shapes and costs."""

import optuna
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.config import SearchConfig, check_defaults, why_infeasible
from search.progress import describe_params
from search.space import describe
from training.config import ConfigError, TrialConfig
from training.data import count_classes
from training.model import network_costs

SAMPLES = 3
TRIES = 1000


def dry_run(config: SearchConfig, console: Console) -> None:
    """Print what a search would do; trains, writes and loads nothing. Raises ConfigError and DataError."""
    num_classes = count_classes(config.data)
    check_defaults(config, num_classes)
    console.print(Text(config.to_yaml()))
    table = Table("path", "distribution", "default", title="Search space")
    space = config.search_space
    defaults = space.default_params()
    for path, entry in config.space.items():
        default = defaults.get(path, defaults.get(f"{path}.0", "inactive"))
        table.add_row(path, Text(describe(entry)), Text(str(default)))
    console.print(table)
    console.print(network_table(config.base, num_classes, f"Trial 0, the defaults: {describe_params(defaults)}"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.search.seed))
    shown = proposed = 0
    while shown < SAMPLES and proposed < TRIES:
        params = space.suggest(study.ask())
        proposed += 1
        try:
            sampled = space.apply(params)
        except ConfigError:
            continue
        if why_infeasible(sampled, config.search, num_classes) is None:
            shown += 1
            console.print(network_table(sampled, num_classes, f"Sampled: {describe_params(params)}"))
    infeasible = proposed - shown
    console.print(
        Text(f"{proposed} proposals gave {shown} networks that can be trained; {infeasible} were infeasible.")
    )


def network_table(config: TrialConfig, num_classes: int, title: str) -> Table:
    """A network layer by layer, with output shapes, parameters and multiply-adds."""
    table = Table("layer", "output shape", "params", "multiply-adds", title=Text(title), title_justify="left")
    costs = network_costs(config.model, (3, config.data.image_size, config.data.image_size), num_classes)
    for cost in costs:
        shape = " x ".join(map(str, cost.layer.output_shape))
        table.add_row(cost.layer.name, shape, f"{cost.num_params:,}", f"{cost.multiply_adds:,}")
    table.add_section()
    total_params, total_adds = sum(c.num_params for c in costs), sum(c.multiply_adds for c in costs)
    table.add_row("total", "", f"{total_params:,}", f"{total_adds:,}")
    return table
