"""How important each hyperparameter is for being among the best trials (PED-ANOVA)."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from analysis.figures.comparison import LEAST_COMPARED, Comparison, at_equal_epochs
from analysis.figures.param_axis import entry_of
from analysis.figures.style import BLUE, Picture, drawing, grid, message, styled
from analysis.reading.results import SearchResults
from analysis.text import fitted, percent, plural
from search.space import SpaceEntry, contains

LEAST_TOP, TOP_SHARE = 5, 0.1  # importance is that for being among the best tenth; Optuna advises at least 5 trials
PANELS = 20  # hyperparameters that are shown


@dataclass(frozen=True)
class Importance:
    """PED-ANOVA: how much the values of the best trials are distributed differently from those of all."""

    shares: dict[str, float]  # largest first, sum 1; empty if there is no saying
    top: int  # trials that count as best
    n: int  # compared trials, and diverged ones as the worst
    reason: str = ""  # why there is none


def importance_data(
    comparison: Comparison, params: Mapping[int, Mapping[str, Any]], space: Mapping[str, SpaceEntry]
) -> Importance:
    """Shares by hyperparameter, of being among the best tenth of the compared trials (at least 5 of them).

    Only the order of the trials counts, so that diverged ones are the worst without a made-up accuracy mattering.
    `params` has the values by trial number; one that is not in its distribution is left out, like an inactive one.
    """
    ranked = [*zip(comparison.trials["number"], comparison.trials["compared_accuracy"], strict=True)]
    ranked += [(number, 0.0) for number in comparison.diverged["number"]]
    n, best_first = len(ranked), sorted((accuracy for _, accuracy in ranked), reverse=True)
    if n < LEAST_COMPARED:
        return Importance({}, 0, n, f"{plural(n, 'trial')} can be compared, and it takes {LEAST_COMPARED}")
    top = max(LEAST_TOP, math.ceil(TOP_SHARE * n))
    kept = sum(accuracy >= best_first[top - 1] for accuracy in best_first)
    if kept == n:
        return Importance({}, kept, n, f"the {n} trials cannot be ranked: too many of them are equally good")
    trials = []
    for number, accuracy in ranked:
        drawn, usable = params[int(number)], {}
        for name, value in drawn.items():
            entry = entry_of(name, space)
            if entry is not None and contains(entry.distribution(), value):
                usable[name] = entry.distribution()
        values = {name: drawn[name] for name in usable}
        trials.append(create_trial(value=float(accuracy), params=values, distributions=usable))
    several = {name for trial in trials for name, each in trial.distributions.items() if not each.single()}
    if not several:
        return Importance({}, kept, n, "no hyperparameter of the space has more than one value")
    # The quantile is such that exactly `top` trials reach it, but for ties.
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(top - 0.5) / n)
    found = _ped_anova(trials, evaluator, sorted(several))
    total = sum(found.values())
    if not total > 0:
        return Importance({}, kept, n, "the best trials are distributed like all others")
    shares = {name: value / total for name, value in found.items()}
    return Importance(dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))), kept, n)


def _ped_anova(trials: Sequence[Any], evaluator: PedAnovaImportanceEvaluator, names: list[str]) -> dict[str, float]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # Of hyperparameters active only once; of `normalize`, which is experimental.
        with warnings.catch_warnings(action="ignore"):
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            return optuna.importance.get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    finally:
        optuna.logging.set_verbosity(verbosity)


def by_importance(paths: Sequence[str], importance: Importance) -> list[str]:
    """Paths, the most important first; those without an importance after them, in their order."""
    return sorted(paths, key=lambda path: -importance.shares.get(path, 0.0))


@styled
def plot_importance(data: Importance) -> Figure:
    """A bar for each hyperparameter, the most important first, at most 20."""
    if not data.shares:
        return message(drawing(height=1.2), "no importance: " + data.reason)
    listed = list(data.shares.items())[:PANELS]
    figure = drawing(height=0.7 + 0.24 * len(listed))
    axes = figure.subplots()
    names, shares = [fitted(name, 32) for name, _ in listed], [100 * share for _, share in listed]
    axes.barh(range(len(listed)), shares, height=0.66, color=BLUE)
    for row, share in enumerate(shares):
        axes.text(share, row, f" {share:.0f} %" if share >= 1 else " < 1 %", va="center", fontsize=8)
    axes.set_yticks(range(len(listed)), names, fontsize=8.5)
    axes.set(xlabel="share of the importance (%)", xlim=(0, 1.12 * max(shares)), ylim=(len(listed) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return figure


def importance_sentence(data: Importance, epoch: int) -> str:
    if not data.shares:
        return f"There is no importance of hyperparameters: {data.reason}."
    (first, share), *others = data.shares.items()
    second = f", then {others[0][0]} with {percent(others[0][1], 0)}" if others else ""
    few = "" if data.n >= LEAST_TOP / TOP_SHARE else " With so few trials the order can be chance."
    return (
        f"For being among the {data.top} best of {data.n} trials after epoch {epoch}, {first} mattered most, "
        f"{percent(share, 0)} of the importance{second} (PED-ANOVA; diverged trials count as the worst). It says what "
        f"the search's own trials show, and how much, not in which direction.{few}"
    )


@lru_cache(maxsize=1)  # three figures ask; with a thousand trials it takes a second
def importance_of(results: SearchResults) -> Importance:
    """importance_data of a whole search."""
    compared = at_equal_epochs(results.trials, results.epochs)
    return importance_data(compared, results.params, results.space)


def picture(results: SearchResults) -> Picture | None:
    compared = at_equal_epochs(results.trials, results.epochs)
    numbers = [*compared.trials["number"], *compared.diverged["number"]]
    if not compared.epoch or not any(results.params[number] for number in numbers):
        return None
    data = importance_of(results)
    sentence = importance_sentence(data, compared.epoch)
    return Picture("importance", "Importance of hyperparameters", plot_importance(data), sentence)
