"""Whether the space is right: ends at which the best trials gather, how far they can be moved, wasted proposals."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from scipy.stats import binom

from analysis.findings.checks.check import Check, fine, new_search, unknown
from analysis.findings.trials import last_line, level_with_best, own_trials, too_few_complete
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import percent, plural, shown
from search.record.endings import Ending, Infeasible
from search.space import SpaceEntry, differences
from training.checkpoint import read_meta
from training.config import NUM_CLASSES
from training.errors import ConfigError
from training.geometry import InfeasibleError
from training.layers import count_costs

TOP = 5  # trials whose hyperparameters are looked at
FEWEST = 3  # trials at equal epochs from which an edge is judged
CHANCE = 0.05  # a uniform draw puts this many trials at an end less often than that
EDGE = 0.1  # of a range, on the scale on which it is drawn
EXTENSIONS = (1 / 3, 1 / 6, 1 / 12, 1 / 24, 1 / 48)  # of a range, the first one legal is proposed
WASTED, MOSTLY_WASTED = 0.2, 0.5  # share of proposals that are infeasible


@dataclass(frozen=True)
class Edge:
    """An end of a range at which the best trial and several of the top ones sit."""

    name: str  # of the param: with the layer if there is a value per layer
    path: str  # of the space's entry
    is_high: bool
    end: float
    near: int  # of the top trials
    having: int  # top trials for which the param was drawn


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


def check_edges(results: SearchResults) -> Check:
    """Is the best trial at an edge of the space?"""
    name = "Is the best trial at an edge of the space?"
    top = [int(number) for number in level_with_best(results)["number"].head(TOP)]
    if results.best_trial is None or results.best_trial.provisional or len(top) < FEWEST:
        return unknown(name, f"{too_few_complete(results)}; an edge is judged from {FEWEST}.")
    wider: dict[tuple[str, bool], float] = {}  # the new end by path and whether it is the high one
    edges, fixed = [], []
    for edge in find_edges(results, results.best_trial.params, [results.params[number] for number in top]):
        bound, obstacle = beyond(results, edge.name, results.space[edge.path], edge.is_high)
        where = f"{edge.name} ({'high' if edge.is_high else 'low'} end {shown(edge.end)}"
        if bound is None:
            fixed.append(f"{where}; {obstacle})")
            continue
        edges.append(f"{where}; {edge.near} of {edge.having})")
        key = (edge.path, edge.is_high)  # of layers with one entry the one that gets furthest counts
        wider[key] = (max if edge.is_high else min)(bound, wider.get(key, bound))
    stop = f" At an end that cannot be moved: {', '.join(fixed)}." if fixed else ""
    if not edges:
        return fine(name, f"The {len(top)} best trials do not gather at an end that could be moved.{stop}")
    entries = dict(results.space)
    for (path, is_high), bound in wider.items():
        entries[path] = with_end(entries[path], is_high, bound)
    changes = ", ".join(f"{path} to {shown(bound)}" for (path, _), bound in wider.items())
    gathered = f"The best trial, and more of the {len(top)} best than chance explains, lie at an end"
    return Check(
        name,
        "act",
        f"{gathered}: {', '.join(edges)}.{stop}",
        f"Search a wider space, starting from what is known: {changes}.",
        new_search(results, {f"space.{path}": entries[path] for path, _ in wider}),
    )


def find_edges(results: SearchResults, best: Mapping[str, Any], top: list[dict[str, Any]]) -> Iterator[Edge]:
    """Ends at which the best trial sits, with half of the top ones and more than a uniform draw would put there."""
    for name, value in best.items():
        path = name if name in results.space else name.rpartition(".")[0]
        ends = ends_of(results.space.get(path))
        if ends is None or not is_number(value):
            continue
        values = [params[name] for params in top if is_number(params.get(name))]
        for is_high in (False, True):
            near = sum(ends.has_near(each, is_high) for each in values)
            if not ends.has_near(value, is_high) or 2 * near < len(top):
                continue
            if binom.sf(near - 1, len(values), ends.chance) <= CHANCE:
                yield Edge(name, path, is_high, ends.high if is_high else ends.low, near, len(values))


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


def with_end(entry: SpaceEntry, is_high: bool, bound: float) -> SpaceEntry:
    """An entry with one end moved; of choices, with one more."""
    if entry.choice is not None:
        return entry.model_copy(update={"choice": (*entry.choice, bound) if is_high else (bound, *entry.choice)})
    low, high = entry.integer or entry.real or (bound, bound)
    field = "real" if entry.integer is None else "integer"
    return entry.model_copy(update={field: (low, bound) if is_high else (bound, high)})


def beyond(results: SearchResults, name: str, entry: SpaceEntry, is_high: bool) -> tuple[float | None, str]:
    """(a new bound of a param's entry that is legal, with the best trial's other settings, or None; the obstacle)."""
    obstacle = "no value beyond"
    for bound in further_bounds(entry, is_high):
        obstacle = why_not(results, name, bound)
        if not obstacle:
            return bound, ""
    return None, obstacle


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
    if not differences(results.config_of(results.best_trial.number), config):
        return "beyond it nothing changes"
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


def check_infeasible(results: SearchResults) -> Check:
    """Were proposals wasted on impossible networks?"""
    name = "Were proposals wasted on impossible networks?"
    own = own_trials(results)
    if own.empty:
        return unknown(name, "No trial has begun.")
    infeasible = own[endings(own) == Ending.INFEASIBLE]
    share = len(infeasible) / len(own)
    finding = f"{len(infeasible)} of {plural(len(own), 'proposal')} ({percent(share, 0)}) were infeasible"
    if infeasible.empty:
        return fine(name, finding + ".")
    reasons = dict(zip(infeasible["number"], map(last_line, infeasible["reason"]), strict=True))
    groups: dict[str, list[int]] = {}  # trial numbers by kind, or by reason if the journal is older than kinds
    for number, reason in reasons.items():
        why = results.infeasible.get(number)
        groups.setdefault(reason if why is None else why.kind, []).append(number)
    alike = max(groups.values(), key=len)
    finding += f", {len(alike)} of them like this: {reasons[alike[0]]}. They cost no training."
    if share < WASTED:
        return fine(name, finding)
    advice, command = what_to_change(results, results.infeasible.get(alike[0]), set(infeasible["number"]))
    return Check(name, "act" if share >= MOSTLY_WASTED else "look", finding, advice, command)


def what_to_change(results: SearchResults, why: Infeasible | None, infeasible: set[int]) -> tuple[str, str | None]:
    """(advice, command) against what most proposals were refused for; None: it was recorded in words only."""
    if why is None:
        return "The reasons are in trials.csv.", None
    if why.bound is not None:
        advice = (
            f"Raise search.{why.kind} if you can afford such networks, or narrow the space: widths and depth first."
        )
        return advice, new_search(results, {f"search.{why.kind}": 2 * why.bound})
    shallower = shallower_depth(results, infeasible)
    if shallower is None:
        return "Take the values that do not fit together out of the space.", None
    advice = "Leave out the largest depth, at which most proposals are infeasible."
    return advice, new_search(results, {"space.model.depth": shallower})


def shallower_depth(results: SearchResults, infeasible: set[int]) -> SpaceEntry | None:
    """The entry of model.depth without its largest value; None unless most proposals with it are infeasible."""
    entry = results.space.get("model.depth")
    ends = ends_of(entry)
    if entry is None or ends is None:
        return None
    deepest = [number for number, params in results.params.items() if params.get("model.depth") == ends.high]
    wasted = sum(number in infeasible for number in deepest)
    best = results.best_trial.params.get("model.depth", 0) if results.best_trial else 0
    is_needed = max(results.config.model.depth, best) >= ends.high
    if not deepest or wasted < MOSTLY_WASTED * len(deepest) or is_needed:
        return None
    if entry.choice is not None:
        return entry.model_copy(update={"choice": tuple(choice for choice in entry.choice if choice != ends.high)})
    return with_end(entry, True, ends.high - int(entry.step or 1))
