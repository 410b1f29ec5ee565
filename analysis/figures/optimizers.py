"""Optimizers compared: val accuracy, and the val loss of the trials that got furthest."""

import math
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures.comparison import Comparison, at_equal_epochs
from analysis.figures.param_axis import spread, tick
from analysis.figures.style import CYCLE, INK, MUTED, Picture, dots, drawing, grid, message, styled
from analysis.reading.results import SearchResults
from analysis.text import fitted, percent, plural

LEAST_PER_OPTIMIZER = 5  # trials; a box of fewer says little


@dataclass(frozen=True)
class OptimizerResult:
    """The compared trials of one optimizer, and the curve of those among them that got furthest."""

    name: str
    accuracy: NDArray[np.float64]  # (n,), compared
    diverged: int
    best_learning_rate: float  # of its most accurate trial; NaN if unknown
    best_other_rate: float  # muon's second one there; NaN if it was not searched
    curve: pd.Series  # epoch -> median val_loss in nats, of the same trials at every epoch
    curve_n: int


def optimizers_data(comparison: Comparison, epochs: pd.DataFrame) -> list[OptimizerResult]:
    """By optimizer, the highest median first; empty if the search compares fewer than two."""
    trials = comparison.trials
    if "optimizer.name" not in trials or trials["optimizer.name"].nunique() < 2:
        return []
    results = []
    for name, group in trials.groupby("optimizer.name", sort=True):
        best = group.sort_values(["compared_accuracy", "number"], ascending=[False, True]).iloc[0]
        losses = epochs[epochs["number"].isin(group["number"]) & epochs["val_loss"].notna()]
        reached = losses.groupby("number")["epoch"].max()
        furthest = reached[reached == reached.max()].index
        results.append(
            OptimizerResult(
                name=str(name),
                accuracy=group["compared_accuracy"].to_numpy(),
                diverged=int((comparison.diverged["optimizer.name"] == name).sum()),
                best_learning_rate=_rate(best, "learning_rate"),
                best_other_rate=_rate(best, "other_learning_rate"),
                curve=losses[losses["number"].isin(furthest)].groupby("epoch")["val_loss"].median(),
                curve_n=len(furthest),
            )
        )
    return sorted(results, key=lambda each: -float(np.median(each.accuracy)))


def _rate(trial: pd.Series, field: str) -> float:
    rate = trial.get(f"optimizer.{field}")
    return math.nan if rate is None else float(rate)


@styled
def plot_optimizers(data: list[OptimizerResult], epoch: int) -> Figure:
    """Trials by optimizer with medians and quartiles; median val loss over the epochs of those that got furthest."""
    if not data:
        return message(drawing(height=1.2), "fewer than two optimizers can be compared")
    figure = drawing(height=3.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    total = sum(len(each.accuracy) for each in data)
    for place, (each, colour) in enumerate(zip(data, cycle(CYCLE), strict=False)):
        accuracy, at = 100 * each.accuracy, np.full(len(each.accuracy), float(place))
        dots(left, at + spread(at, 0.5), accuracy, total, s=14, color=colour, alpha=0.55)
        low, middle, high = np.percentile(accuracy, [25, 50, 75])
        left.plot([place - 0.34, place + 0.34], [middle, middle], color=INK, linewidth=2, zorder=4)
        if len(accuracy) >= LEAST_PER_OPTIMIZER:
            left.plot([place, place], [low, high], color=INK, linewidth=1, zorder=4)
        if len(each.curve):
            label = f"{fitted(each.name, 12)}: {plural(each.curve_n, 'trial')} to epoch {each.curve.index.max()}"
            right.plot(each.curve.index, each.curve, "o-", color=colour, markersize=3.5, label=label)
    left.set_xticks(range(len(data)), [_optimizer_label(each) for each in data], fontsize=7.5)
    left.set_xlim(-0.6, len(data) - 0.4)
    left.set_ylabel(f"val accuracy at epoch {epoch} (%)", fontsize=9)
    right.set_xlabel("epoch", fontsize=9)
    right.set_ylabel("median val loss (nats)", fontsize=9)
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max((int(each.curve.index.max()) for each in data if len(each.curve)), default=1)
    right.set_xlim(0.8, max(last, 2) + 0.2)
    left.tick_params(axis="y", labelsize=8)
    right.tick_params(labelsize=8)
    grid(left, "y")
    grid(right)
    if any(len(each.curve) for each in data):
        right.legend(fontsize=7.5)
    else:  # no epoch but in the journal, which holds no loss
        right.text(0.5, 0.5, "no losses are left", transform=right.transAxes, ha="center", va="center", color=MUTED)
    return figure


def _optimizer_label(each: OptimizerResult) -> str:
    diverged = [f"+ {each.diverged} div."] if each.diverged else []
    return "\n".join([fitted(each.name, 8), f"n = {len(each.accuracy)}", *diverged])


def optimizers_sentence(data: list[OptimizerResult], epoch: int) -> str:
    highest, lowest = (
        f"with {each.name}, {percent(np.median(each.accuracy), 1)} (n = {len(each.accuracy)})"
        for each in (data[0], data[-1])
    )
    text = f"The median val accuracy after epoch {epoch} is highest {highest}, and lowest {lowest}."
    rates = [_rates_text(each) for each in data if not math.isnan(each.best_learning_rate)]
    if rates:
        text += f" The learning rate of each one's best trial is {', '.join(rates)}."
    few = [each.name for each in data if len(each.accuracy) < LEAST_PER_OPTIMIZER]
    if few:
        text += (
            f" Fewer than {LEAST_PER_OPTIMIZER} trials used {', '.join(few)}: a search gives few trials to what it "
            "found bad at first, and this is no fair comparison."
        )
    return text


def _rates_text(each: OptimizerResult) -> str:
    """`0.1 for sgd`, `0.02 for muon (0.1 for all but its filters)`."""
    rate, other = (tick(float(f"{rate:.2g}")) for rate in (each.best_learning_rate, each.best_other_rate))
    words = f"{rate} for {each.name}"
    return words if math.isnan(each.best_other_rate) else f"{words} ({other} for all but its filters)"


def picture(results: SearchResults) -> Picture | None:
    compared = at_equal_epochs(results.trials, results.epochs)
    data = optimizers_data(compared, results.epochs)
    if not data:
        return None
    figure, sentence = plot_optimizers(data, compared.epoch), optimizers_sentence(data, compared.epoch)
    return Picture("optimizers", "Optimizers", figure, sentence)
