"""Val accuracy against each hyperparameter, in small panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.comparison import Comparison, at_equal_epochs, compared_text
from analysis.figures.importance import PANELS, by_importance, importance_of
from analysis.figures.param_axis import ParamAxis, axis_of, places, scale_x, spread
from analysis.figures.style import INK, RED, SKY, Picture, dots, drawing, grid, legend, mark_trials, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import hyperparameters
from analysis.text import fitted, percent, shown
from search.space import SpaceEntry

LEAST_PER_VALUE = 3  # trials that a median must rest on to be put into words


@dataclass(frozen=True)
class Panel:
    """One hyperparameter against the compared val accuracy."""

    axis: ParamAxis
    points: pd.DataFrame  # number, place, compared_accuracy (NaN: diverged); of the trials where it was active
    medians: pd.DataFrame  # of choices: place, compared_accuracy, n


def axis_plots_data(comparison: Comparison, space: Mapping[str, SpaceEntry], paths: Sequence[str]) -> list[Panel]:
    """A panel for each path with a value drawn in the compared or diverged trials."""
    numbers = [*comparison.trials["number"], *comparison.diverged["number"]]
    accuracies = [*comparison.trials["compared_accuracy"], *[nan] * len(comparison.diverged)]
    panels = []
    for path in paths:
        values = [*comparison.trials[path].tolist(), *comparison.diverged[path].tolist()]
        axis = axis_of(path, space, values)
        points = pd.DataFrame({"number": numbers, "place": places(axis, values), "compared_accuracy": accuracies})
        points = points.dropna(subset="place").reset_index(drop=True)
        by_choice = (points if axis.choices else points.iloc[:0]).dropna().groupby("place", as_index=False)
        medians = by_choice.agg(compared_accuracy=("compared_accuracy", "median"), n=("compared_accuracy", "size"))
        if len(points):
            panels.append(Panel(axis, points, medians))
    return panels


@styled
def plot_axes(data: list[Panel], epoch: int, best: int | None = None) -> Figure:
    """Small panels, val accuracy against each hyperparameter; bars are medians, crosses at the bottom diverged."""
    if not data:
        return message(drawing(height=1.2), "no trial has drawn a value and trained an epoch yet")
    columns = min(3, len(data))
    rows = -(-len(data) // columns)
    figure = drawing(height=0.5 + 1.7 * rows)
    grids = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grids[len(data) :]:
        axes.set_axis_off()
    grids[0].scatter([], [], s=18, color=SKY, label="a trial")
    for axes, panel in zip(grids, data, strict=False):
        _plot_panel(axes, panel, best)
    accuracy = 100 * pd.concat([panel.points["compared_accuracy"] for panel in data])
    low, high = (float(accuracy.min()), float(accuracy.max())) if accuracy.notna().any() else (0.0, 100.0)
    margin = 0.08 * max(high - low, 5)
    grids[0].set_ylim(low - 1.5 * margin, high + margin)
    figure.supylabel(f"val accuracy at epoch {epoch} (%)", fontsize=10)
    if any(len(panel.medians) for panel in data):
        axes.plot([], [], color=INK, linewidth=1.6, label="median of a value")
    if accuracy.isna().any():
        axes.scatter([], [], marker="x", s=18, color=RED, label="diverged")
    legend(figure, ncols=5, fontsize=8, columnspacing=1.2)
    return figure


def _plot_panel(axes: Axes, panel: Panel, best: int | None) -> None:
    data, axis = panel.points, panel.axis
    x, accuracy = data["place"].to_numpy(), 100 * data["compared_accuracy"].to_numpy()
    if axis.choices:
        x = x + spread(x, 0.55)
    dots(axes, x, accuracy, len(data), s=13, color=SKY, alpha=0.7)
    mark_trials(axes, data["number"].to_numpy(), x, accuracy, best)
    lost, bottom = x[np.isnan(accuracy)], axes.get_xaxis_transform()
    cross: dict[str, Any] = {"marker": "x", "s": 16, "color": RED, "linewidths": 1, "transform": bottom}
    dots(axes, lost, np.full(len(lost), 0.04), len(data), **cross)
    for place, median, _ in panel.medians.to_numpy(dtype=np.float64):
        axes.plot([place - 0.36, place + 0.36], [100 * median] * 2, color=INK, linewidth=1.6, zorder=4)
    axes.set_title(fitted(axis.path, 30), fontsize=8.5, loc="left", pad=4)
    axes.tick_params(labelsize=7.5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    grid(axes)
    if axis.choices:
        _name_choices(axes, [fitted(shown(choice), 13) for choice in axis.choices])
    else:
        scale_x(axes, axis, 0.06)


def _name_choices(axes: Axes, labels: list[str]) -> None:
    step = -(-len(labels) // 12)
    crowded = sum(map(len, labels[::step])) + 2 * len(labels[::step]) > 30
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(0, len(labels), step), labels[::step], **turned)
    axes.set_xlim(-0.6, len(labels) - 0.4)


def axes_sentence(comparison: Comparison, data: list[Panel], columns: int, total_epochs: int) -> str:
    """`columns`: how many hyperparameters there are, drawn or not."""
    text = compared_text(comparison, total_epochs)
    contrasts = []
    for panel in data:
        firm = panel.medians[panel.medians["n"] >= LEAST_PER_VALUE].sort_values("compared_accuracy")
        if len(firm) > 1:
            worst, best = firm.iloc[0], firm.iloc[-1]
            contrasts.append((best["compared_accuracy"] - worst["compared_accuracy"], panel.axis, best, worst))
    if contrasts:
        _, axis, *ends = max(contrasts, key=lambda contrast: contrast[0])
        values = [shown(axis.choices[int(end["place"])]) for end in ends]
        high, low = (
            f"{percent(end['compared_accuracy'], 1)} with {value} (n = {end['n']:.0f})"
            for end, value in zip(ends, values, strict=True)
        )
        text += f" Medians differ most between values of {axis.path}: {high}, {low}."
    if columns > PANELS:
        text += f" Of {columns} hyperparameters the {PANELS} most important are shown."
    return text


def picture(results: SearchResults) -> Picture | None:
    compared = at_equal_epochs(results.trials, results.epochs)
    if not compared.epoch:
        return None
    paths = hyperparameters(results.trials)
    most_important = by_importance(paths, importance_of(results))[:PANELS]
    panels = axis_plots_data(compared, results.space, [path for path in paths if path in most_important])
    if not panels:
        return None
    figure = plot_axes(panels, compared.epoch, results.best_number)
    sentence = axes_sentence(compared, panels, len(paths), results.config.train.epochs)
    return Picture("hyperparameters", "Accuracy against each hyperparameter", figure, sentence)
