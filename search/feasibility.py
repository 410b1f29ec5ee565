"""Which networks can exist and cost no more than a search allows, before anything is allocated. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import optuna

from search.record.endings import Infeasible
from search.space import SearchSpace, differences
from training.config import TrialConfig
from training.errors import ConfigError
from training.geometry import InfeasibleError
from training.layers import count_costs

if TYPE_CHECKING:
    from search.config import SearchConfig, SearchSection

Params = dict[str, Any]


def why_infeasible(config: TrialConfig, bounds: "SearchSection", num_classes: int) -> Infeasible | None:
    """Why a network cannot exist or costs more than allowed; None: it can be trained."""
    try:
        num_params, multiply_adds = count_costs(config.model, config.data.image_shape, num_classes)
    except InfeasibleError as error:
        return Infeasible("impossible", f"impossible network: {error}")
    if bounds.max_params is not None and num_params > bounds.max_params:
        reason = f"num_params {num_params:,} > search.max_params {bounds.max_params:,}"
        return Infeasible("max_params", reason, num_params, bounds.max_params)
    if bounds.max_multiply_adds is not None and multiply_adds > bounds.max_multiply_adds:
        reason = f"multiply_adds {multiply_adds:,} > search.max_multiply_adds {bounds.max_multiply_adds:,}"
        return Infeasible("max_multiply_adds", reason, multiply_adds, bounds.max_multiply_adds)
    return None


def why_unfit(
    params: Mapping[str, Any], space: SearchSpace, bounds: "SearchSection", num_classes: int
) -> Infeasible | None:
    """Why params do not fit together, or their network is infeasible; None: it can be trained."""
    try:
        return why_infeasible(space.apply(params), bounds, num_classes)
    except ConfigError as error:
        return Infeasible("unfit", "; ".join(error.errors))


def check_defaults(config: "SearchConfig", num_classes: int) -> None:
    """Refuse a config whose own network is impossible or above a bound. Raises ConfigError."""
    problem = why_infeasible(config.base, config.search, num_classes)
    if problem:
        raise ConfigError([f"model: the default network must be feasible, but it is not: {problem.reason}"])


def first_params(config: "SearchConfig", num_classes: int) -> tuple[list[Params], list[str]]:
    """Params of search.first, and why some are left out: other flags can change what fits."""
    space, params, left_out = config.search_space, [], []
    for index, changes in enumerate(config.search.first):
        wanted = config.base.override(changes)
        drawn, _ = space.nearest(wanted)
        outside = differences(wanted, space.apply(drawn))
        problem = why_unfit(drawn, space, config.search, num_classes)
        if outside:
            left_out.append(f"search.first.{index} is left out: its {', '.join(outside)} cannot be drawn in this space")
        elif problem:
            left_out.append(f"search.first.{index} is left out: {problem.reason}")
        else:
            params.append(drawn)
    return params, left_out


def feasible_networks(config: "SearchConfig", num_classes: int, tries: int) -> Iterator[tuple[Params, TrialConfig]]:
    """The feasible ones of so many random points of the space, the same at every call."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.search.seed))
    space = config.search_space
    for _ in range(tries):
        params = space.suggest(study.ask())
        if why_unfit(params, space, config.search, num_classes) is None:
            yield params, space.apply(params)
