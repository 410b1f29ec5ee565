"""Whether the best trials sit at an end of the space, and how far it can be widened."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.evaluating.statistics import at_least
from analysis.findings.checks.check import Check, fine, unknown
from analysis.findings.checks.commands import new_search, with_end
from analysis.findings.checks.widening import beyond, ends_of, is_number
from analysis.findings.trials import level_with_best, too_few_complete
from analysis.reading.results import SearchResults
from analysis.text import shown

TOP = 5  # trials whose hyperparameters are looked at
FEWEST = 3  # trials at equal epochs from which an edge is judged
CHANCE = 0.05  # a uniform draw puts this many trials at an end less often than that


@dataclass(frozen=True)
class Edge:
    """An end of a range at which the best trial and several of the top ones sit."""

    name: str  # of the param: with the layer if there is a value per layer
    path: str  # of the space's entry
    is_high: bool
    end: float
    near: int  # of the top trials
    having: int  # top trials for which the param was drawn


def check_edges(results: SearchResults) -> Check:
    """Is the best trial at an edge of the space?"""
    name = "Is the best trial at an edge of the space?"
    top = [int(number) for number in level_with_best(results)["number"].head(TOP)]
    if results.best_trial is None or results.best_trial.provisional or len(top) < FEWEST:
        return unknown(name, f"{too_few_complete(results)}; an edge is judged from {FEWEST}.")
    bounds: dict[tuple[str, bool], float] = {}
    edges, fixed = [], []
    for edge in find_edges(results, results.best_trial.params, [results.params[number] for number in top]):
        bound, obstacle = beyond(results, edge.name, results.space[edge.path], edge.is_high)
        where = f"{edge.name} ({'high' if edge.is_high else 'low'} end {shown(edge.end)}"
        if bound is None:
            fixed.append(f"{where}; {obstacle})")
            continue
        edges.append(f"{where}; {edge.near} of {edge.having})")
        key = (edge.path, edge.is_high)  # of layers with one entry the one that gets furthest counts
        bounds[key] = (max if edge.is_high else min)(bound, bounds.get(key, bound))
    stop = f" At an end that cannot be moved: {', '.join(fixed)}." if fixed else ""
    if not edges:
        return fine(name, f"The {len(top)} best trials do not gather at an end that could be moved.{stop}")
    wider: dict[str, Any] = {}
    for (path, is_high), bound in bounds.items():
        wider[f"space.{path}"] = with_end(wider.get(f"space.{path}", results.space[path]), is_high, bound)
    changes = ", ".join(f"{path} to {shown(bound)}" for (path, _), bound in bounds.items())
    gathered = f"The best trial, and more of the {len(top)} best than chance explains, lie at an end"
    return Check(
        name,
        "act",
        f"{gathered}: {', '.join(edges)}.{stop}",
        f"Search a wider space, starting from what is known: {changes}.",
        new_search(results, wider),
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
            if at_least(near, len(values), ends.chance) <= CHANCE:
                yield Edge(name, path, is_high, ends.high if is_high else ends.low, near, len(values))
