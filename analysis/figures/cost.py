"""Val accuracy against what networks cost, with the Pareto fronts."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.figures.comparison import Comparison, at_equal_epochs
from analysis.figures.param_axis import ParamAxis, scale_x, tick
from analysis.figures.style import ORANGE, SKY, Picture, dots, drawing, grid, legend, mark_trials, message, styled
from analysis.reading.results import SearchResults
from analysis.text import compact, percent, points

LEAST_AT_COST = 5  # trials that are compared
WITHIN = 0.01  # one point
COSTS = {
    "num_params": "parameters",
    "multiply_adds": "multiply-adds for an image",
    "epoch_seconds": "mean epoch time (s)",
}


def pareto_front(cost: ArrayLike, accuracy: ArrayLike) -> NDArray[np.bool_]:
    """Which of N are on the front, (N,): no other costs no more and is as accurate, and is better in one of the two.

    Equals are all on it; NaN in either is not.
    """
    known = pd.DataFrame({"cost": cost, "accuracy": accuracy}, dtype="float64")
    highest = known.dropna().groupby("cost")["accuracy"].max()  # the cheapest first
    on_front = highest[highest > highest.cummax().shift(fill_value=-np.inf)]
    return (known["accuracy"] == known["cost"].map(on_front)).to_numpy()


def cost_data(comparison: Comparison, epochs: pd.DataFrame) -> pd.DataFrame:
    """Compared trials: number, compared_accuracy, num_params, multiply_adds, epoch_seconds (mean of its epochs).

    NaN for what is not known or not above 0.
    """
    data = comparison.trials[["number", "compared_accuracy", "num_params", "multiply_adds"]].copy()
    data["epoch_seconds"] = data["number"].map(epochs.groupby("number")["epoch_seconds"].mean())
    costs = data[list(COSTS)].astype("float64")
    data[list(COSTS)] = costs.where(costs > 0)
    return data


@styled
def plot_cost(data: pd.DataFrame, epoch: int, best: int | None = None) -> Figure:
    """val accuracy against three costs, with the Pareto front of each as a line."""
    drawn = {name: data.dropna(subset=name) for name in COSTS if data[name].notna().any()}
    if not drawn:
        return message(drawing(height=1.2), "no trial with a known cost has trained an epoch yet")
    figure = drawing(height=2.9)
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, (name, known) in zip(panels, drawn.items(), strict=True):
        cost, accuracy = known[name].to_numpy(), 100 * known["compared_accuracy"].to_numpy()
        dots(axes, cost, accuracy, len(known), s=16, color=SKY, alpha=0.7)
        front = known[pareto_front(cost, accuracy)].sort_values([name, "compared_accuracy"])
        ends = [*front[name], cost.max()], [*(100 * front["compared_accuracy"]), accuracy.max()]
        axes.step(*ends, where="post", color=ORANGE, linewidth=1.6, zorder=2, label="Pareto front")
        mark_trials(axes, known["number"].to_numpy(), cost, accuracy, best)
        axis = ParamAxis(name, float(cost.min()), float(cost.max()), log=True)
        scale_x(axes, axis, 0.08, tick if name == "epoch_seconds" else _count)
        axes.set_xlabel(COSTS[name], fontsize=9)
        axes.tick_params(labelsize=8)
        grid(axes)
    panels[0].set_ylabel(f"val accuracy at epoch {epoch} (%)", fontsize=9)
    legend(figure, ncols=3, fontsize=8)
    return figure


def _count(value: float) -> str:
    """`50`, `10 k`, `2.5 M`: ticks are round."""
    return compact(value).replace(".0 ", " ")


def cost_sentence(comparison: Comparison, data: pd.DataFrame) -> str:
    known = data.dropna(subset=["num_params"])
    if known.empty:
        return "The costs of the networks are not known."
    text = (
        f"After epoch {comparison.epoch}, {comparison.reason} (n = {len(data)}): "
        "no trial beats one on the line in both cost and accuracy. "
    )
    best = known.sort_values(["compared_accuracy", "num_params"], ascending=[False, True]).iloc[0]
    near = known[known["compared_accuracy"] >= best["compared_accuracy"] - WITHIN - 1e-9]
    small = near.sort_values(["num_params", "compared_accuracy"], ascending=[True, False]).iloc[0]
    there = f"{percent(best['compared_accuracy'])} with {int(best['num_params']):,} parameters"
    if small["num_params"] == best["num_params"]:
        return text + f"No network within 1 point of the best, trial {int(best['number'])} ({there}), is smaller."
    units = {"num_params": "parameters", "multiply_adds": "multiply-adds", "epoch_seconds": "seconds an epoch"}
    changes = (small[list(units)] / best[list(units)] - 1).dropna()
    savings = [
        f"{percent(abs(change), 0)} {'fewer' if change <= 0 else 'more'} {units[name]}"
        for name, change in changes.items()
    ]
    return text + (
        f"The smallest network within 1 point of the best, trial {int(best['number'])} ({there}), is that of trial "
        f"{int(small['number'])}: {points(small['compared_accuracy'] - best['compared_accuracy'])} points, "
        f"{', '.join(savings)}."
    )


def picture(results: SearchResults) -> Picture | None:
    furthest = at_equal_epochs(results.trials, results.epochs, share=0, least=LEAST_AT_COST)
    data = cost_data(furthest, results.epochs)
    if data[list(COSTS)].isna().all(axis=None):
        return None
    figure = plot_cost(data, furthest.epoch, results.best_number)
    return Picture("cost", "Accuracy against cost", figure, cost_sentence(furthest, data))
