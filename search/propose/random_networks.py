"""Random networks of a search's space, to be looked at or measured before any is trained."""

from collections.abc import Iterator
from typing import Any

import optuna

from search.config import SearchConfig, why_unfit
from training.config import TrialConfig

Params = dict[str, Any]


def feasible_networks(config: SearchConfig, num_classes: int, tries: int) -> Iterator[tuple[Params, TrialConfig]]:
    """The feasible ones of so many random points of the space, the same at every call."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.search.seed))
    space = config.search_space
    for _ in range(tries):
        params = space.suggest(study.ask())
        if why_unfit(params, space, config.search, num_classes) is None:
            yield params, space.apply(params)
