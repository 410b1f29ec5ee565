"""Val accuracy against each hyperparameter, in small panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.figures.comparison import Comparison, at_equal_epochs, compared_text
from analysis.figures.importance import PANELS, by_importance, importance_of
from analysis.figures.param_axis import ParamAxis, axis_of, log_ticks, places, spread, tick, unit
from analysis.figures.style import (
    COLOURS,
    DOTS,
    INK,
    MANY,
    Picture,
    drawing,
    grid,
    legend_handles,
    mark_trials,
    message,
    styled,
)
from analysis.reading.results import SearchResults
from analysis.reading.tables import hyperparameters
from analysis.text import fitted, percent, shown
from search.record.endings import Ending
from search.space import SpaceEntry

LEAST_PER_VALUE = 3  # trials that a median must rest on to be put into words


@dataclass(frozen=True)
class Panel:
    """One hyperparameter against the compared val accuracy."""

    axis: ParamAxis
    points: pd.DataFrame  # number, place, compared_accuracy (NaN: diverged); of the trials where it was active
    medians: pd.DataFrame  # of choices: place, compared_accuracy, n

    @property
    def path(self) -> str:
        return self.axis.path


def axis_plots_data(comparison: Comparison, space: Mapping[str, SpaceEntry], paths: Sequence[str]) -> list[Panel]:
    """A panel for each path with a value drawn in the compared or diverged trials."""
    numbers = [*comparison.trials["number"], *comparison.diverged["number"]]
    accuracies = [*comparison.trials["compared_accuracy"], *[nan] * len(comparison.diverged)]
    panels = []
    for path in paths:
        values = [*comparison.trials[path].tolist(), *comparison.diverged[path].tolist()]
        axis = axis_of(path, space, values)
        shown_points = pd.DataFrame(
            {"number": numbers, "place": places(axis, values), "compared_accuracy": accuracies}
        ).dropna(subset="place")
        groups = shown_points.dropna().groupby("place")["compared_accuracy"] if axis.choices else None
        columns = ["place", "compared_accuracy", "n"]
        medians = (
            pd.DataFrame(columns=columns, dtype="float64")
            if groups is None
            else groups.agg(["median", "size"]).reset_index().set_axis(columns, axis=1)
        )
        if len(shown_points):
            panels.append(Panel(axis, shown_points.reset_index(drop=True), medians))
    return panels


@styled
def plot_axes(data: list[Panel], epoch: int, best: int | None = None) -> Figure:
    """Small panels, val accuracy against each hyperparameter; bars are medians, crosses at the bottom diverged."""
    if not data:
        return message(drawing(height=1.2), "no trial has drawn a value and trained an epoch yet")
    columns = min(3, len(data))
    rows = -(-len(data) // columns)
    figure = drawing(height=0.5 + 1.7 * rows)
    grids = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in list(grids.flat)[len(data) :]:
        axes.set_axis_off()
    for axes, panel in zip(grids.flat, data, strict=False):
        _plot_panel(axes, panel, best)
    accuracy = 100 * pd.concat([panel.points["compared_accuracy"] for panel in data])
    low, high = (float(accuracy.min()), float(accuracy.max())) if accuracy.notna().any() else (0.0, 100.0)
    margin = 0.08 * max(high - low, 5)
    grids.flat[0].set_ylim(low - 1.5 * margin, high + margin)
    figure.supylabel(f"val accuracy at epoch {epoch} (%)", fontsize=10)
    _mark_legend(figure, data)
    return figure


def _plot_panel(axes: Axes, panel: Panel, best: int | None) -> None:
    data, axis = panel.points, panel.axis
    x, accuracy = data["place"].to_numpy(), 100 * data["compared_accuracy"].to_numpy()
    if axis.choices:
        x = x + spread(x, 0.55)
    pixels = len(data) > MANY
    axes.scatter(x, accuracy, s=13, color=DOTS, alpha=0.7, linewidths=0, zorder=3, rasterized=pixels)
    mark_trials(axes, data["number"].to_numpy(), x, accuracy, best)
    lost, bottom = x[np.isnan(accuracy)], axes.get_xaxis_transform()
    cross: dict[str, Any] = {"marker": "x", "s": 16, "color": COLOURS[Ending.DIVERGED], "linewidths": 1}
    axes.scatter(lost, np.full(len(lost), 0.04), transform=bottom, rasterized=pixels, **cross)
    for place, median, _ in panel.medians.to_numpy(dtype=np.float64):
        axes.plot([place - 0.36, place + 0.36], [100 * median] * 2, color=INK, linewidth=1.6, zorder=4)
    axes.set_title(fitted(panel.path, 26), fontsize=8.5, loc="left", pad=4)
    axes.tick_params(labelsize=7.5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    grid(axes)
    _scale(axes, axis)


def _scale(axes: Axes, axis: ParamAxis) -> None:
    if axis.choices:
        labels = [fitted(shown(choice), 10) for choice in axis.choices]
        step = -(-len(labels) // 12)
        crowded = sum(map(len, labels[::step])) + 2 * len(labels[::step]) > 30
        turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(0, len(labels), step), labels[::step], **turned)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        return
    if axis.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(log_ticks(axis.low, axis.high))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    low, high = unit(axis, np.array([-0.06, 1.06]))
    axes.set_xlim(low, high)


def _mark_legend(figure: Figure, data: list[Panel]) -> None:
    """One legend for all panels; the marked trials need not be in the first of them."""
    handles = {"a trial": figure.axes[0].scatter([], [], s=18, color=DOTS), **legend_handles(figure)}
    if any(len(panel.medians) for panel in data):
        handles["median of a value"] = figure.axes[0].plot([], [], color=INK, linewidth=1.6)[0]
    if any(panel.points["compared_accuracy"].isna().any() for panel in data):
        handles["diverged"] = figure.axes[0].scatter([], [], marker="x", s=18, color=COLOURS[Ending.DIVERGED])
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=5, fontsize=8, columnspacing=1.2)


def axes_sentence(comparison: Comparison, data: list[Panel], columns: int, total_epochs: int) -> str:
    """`columns`: how many hyperparameters there are, drawn or not."""
    text = compared_text(comparison, total_epochs)
    contrasts = []
    for panel in data:
        firm = panel.medians[panel.medians["n"] >= LEAST_PER_VALUE].sort_values("compared_accuracy")
        if len(firm) > 1:
            worst, best = firm.iloc[0], firm.iloc[-1]
            contrasts.append((best["compared_accuracy"] - worst["compared_accuracy"], panel, worst, best))
    if contrasts:
        _, panel, worst, best = max(contrasts, key=lambda contrast: contrast[0])
        values = [shown(panel.axis.choices[int(each["place"])]) for each in (best, worst)]
        text += (
            f" Medians differ most between values of {panel.path}: {percent(best['compared_accuracy'], 1)} with "
            f"{values[0]} (n = {int(best['n'])}), {percent(worst['compared_accuracy'], 1)} with {values[1]} "
            f"(n = {int(worst['n'])})."
        )
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
