"""The ends of a space's entries, and how far each can be moved: to a legal value, at which the network is possible."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from analysis.reading.results import SearchResults
from search.space import SpaceEntry
from training.checkpoint import read_meta
from training.config import NUM_CLASSES
from training.errors import ConfigError
from training.geometry import InfeasibleError
from training.layers import count_costs

EDGE = 0.1  # of a range, on the scale on which it is drawn
EXTENSIONS = (1 / 3, 1 / 6, 1 / 12, 1 / 24, 1 / 48)  # of a range, the first one legal is proposed


@dataclass(frozen=True)
class Ends:
    """The ends of an ordered range; `chance` is that of a uniform draw to be near one of them."""

    low: float
    high: float
    log: bool
    reach: float  # what is near, as a share of the range
    chance: float

    def has_near(self, value: float, is_high: bool) -> bool:
        """Whether a value is near an end."""
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        distance = (high - value if is_high else value - low) / (high - low)
        return distance <= self.reach + 1e-9


def ends_of(entry: SpaceEntry | None) -> Ends | None:
    """The ends of a space's entry; None if its values have no order, or there is but one."""
    if entry is None:
        return None
    if entry.choice is not None:
        choices = {choice for choice in entry.choice if is_number(choice)}
        if len(choices) < max(2, len(set(entry.choice))):
            return None
        return Ends(min(choices), max(choices), False, 0.0, 1 / len(choices))
    low, high = entry.integer or entry.real or (0, 0)
    if not low < high:
        return None
    step = entry.step or (0 if entry.integer is None else 1)
    num_values = math.floor((high - low) / step + 1e-9) + 1 if step else math.inf
    return Ends(low, high, entry.log, EDGE, max(EDGE, 1 / num_values))


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def beyond(results: SearchResults, name: str, entry: SpaceEntry, is_high: bool) -> tuple[float | None, str]:
    """(a new bound of a param's entry that is legal, with the best trial's other settings, or None; the obstacle)."""
    obstacle = ""
    for bound in further_bounds(entry, is_high):
        obstacle = why_not(results, name, bound)
        if not obstacle:
            return bound, ""
    return None, obstacle or "no value beyond"


def further_bounds(entry: SpaceEntry, is_high: bool) -> Iterator[float]:
    """Values beyond an end, the furthest first: a share of a range on its scale, or the next step of choices."""
    if entry.choice is not None:
        yield from next_choices(sorted({choice for choice in entry.choice if is_number(choice)}, reverse=not is_high))
        return
    low, high = entry.integer or entry.real or (0, 0)
    end, sign = (high, 1) if is_high else (low, -1)
    step = entry.step or (None if entry.integer is None or entry.log else 1)
    for share in EXTENSIONS:
        bound = end * (high / low) ** (sign * share) if entry.log else end + sign * share * (high - low)
        if step:
            bound = end + sign * step * max(1, round(abs(bound - end) / step))
        bound = float(f"{bound:.6g}" if step else f"{bound:.3g}") if entry.integer is None else round(bound)
        if sign * (bound - end) > 0:
            yield bound


def next_choices(values: list[float]) -> Iterator[float]:
    """What may follow numbers in order: by their ratio if three or more have one, else by the last difference."""
    last, before = values[-1], values[-2]
    ratios = {round(b / a, 6) for a, b in pairwise(values) if a}
    by_ratio = [last * last / before] if before and last / before > 0 else []
    by_difference = [last + (last - before)]
    is_geometric = len(values) > 2 and 0 not in values and len(ratios) == 1
    for value in by_ratio + by_difference if is_geometric else by_difference + by_ratio:
        if not all(isinstance(each, int) for each in values):
            yield float(f"{value:.6g}")
        elif value == int(value):
            yield int(value)


def why_not(results: SearchResults, name: str, value: float) -> str:
    """What is wrong with a value in the place of the best trial's; empty if nothing is."""
    assert results.best_trial is not None
    bounds = results.settings.search
    try:
        config = results.config.override({**results.best_trial.params, name: value})
        num_params, multiply_adds = count_costs(config.model, config.data.image_shape, num_classes(results))
    except ConfigError:
        return "no value beyond is legal"
    except InfeasibleError:
        return "beyond it the network is impossible"
    if bounds.max_params is not None and num_params > bounds.max_params:
        return "beyond it the network exceeds search.max_params"
    if bounds.max_multiply_adds is not None and multiply_adds > bounds.max_multiply_adds:
        return "beyond it the network exceeds search.max_multiply_adds"
    return ""


def num_classes(results: SearchResults) -> int:
    """Of the data set; of image folders those of the best trial's checkpoint, 2 without one."""
    known = NUM_CLASSES.get(results.config.data.dataset)
    if known is not None or results.best_trial is None:
        return known or 2
    checkpoint = results.checkpoint_of(results.best_trial.number)
    return 2 if checkpoint is None else len(read_meta(checkpoint)["class_names"])
