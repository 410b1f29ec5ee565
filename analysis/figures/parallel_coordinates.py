"""Trials as lines over the axes of the most important hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures.comparison import Comparison, at_equal_epochs
from analysis.figures.importance import LEAST_TOP, TOP_SHARE, by_importance, importance_of
from analysis.figures.param_axis import ParamAxis, axis_of, height_on, log_ticks, places, spread, tick, unit
from analysis.figures.style import INK, Picture, drawing, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import hyperparameters
from analysis.text import fitted, plural, shown
from search.space import SpaceEntry

LINES, LINES_AXES = 300, 6  # more lines hide each other


@dataclass(frozen=True)
class Lines:
    """Trials as lines over parallel axes, the worst first."""

    axes: list[ParamAxis]
    heights: NDArray[np.float64]  # (trials, axes), on each axis in [0, 1]; NaN if inactive
    accuracy: NDArray[np.float64]  # (trials,), compared
    numbers: list[int]


def parallel_coordinates_data(comparison: Comparison, space: Mapping[str, SpaceEntry], paths: Sequence[str]) -> Lines:
    """Compared trials over the hyperparameters that were drawn in one of them."""
    trials = comparison.trials.sort_values(["compared_accuracy", "number"], ascending=[True, False])
    axes, heights = [], []
    for path in paths:
        values = trials[path].tolist()
        axis = axis_of(path, space, values)
        at = places(axis, values)
        if np.isfinite(at).any():
            axes.append(axis)
            heights.append(height_on(axis, at))
    stacked = np.stack(heights, axis=1) if heights else np.empty((len(trials), 0))
    return Lines(axes, stacked, trials["compared_accuracy"].to_numpy(), [int(number) for number in trials["number"]])


def lines_drawn(n: int) -> NDArray[np.int64]:
    """Which of n lines, the worst first, are drawn: all, or the 150 best and as many of the others, evenly by rank."""
    if n <= LINES:
        return np.arange(n)
    others = n - LINES // 2
    return np.concatenate([np.linspace(0, others - 1, LINES // 2).round().astype(np.int64), np.arange(others, n)])


@styled
def plot_parallel_coordinates(data: Lines, epoch: int, best: int | None = None) -> Figure:
    """A line for each trial, better ones thicker and on top; the last axis is the val accuracy, which is the colour.

    Of more than 300 trials, the 150 best and as many of the others, evenly by rank.
    """
    n, count = len(data.numbers), len(data.axes)
    if not n or not count:
        return message(drawing(height=1.2), "no trial has drawn a value and trained an epoch yet")
    figure = drawing(height=4.0)
    axes = figure.subplots()
    low, high = float(data.accuracy.min()), float(data.accuracy.max())
    quality = (data.accuracy - low) / (high - low) if high > low else np.ones(n)
    heights = np.column_stack([data.heights, quality if high > low else np.full(n, 0.5)])
    for index, axis in enumerate(data.axes):
        if axis.choices:
            heights[:, index] += spread(heights[:, index], 0.05)
    inactive = np.isnan(heights)
    heights = np.where(inactive, -0.12, heights)
    drawn = lines_drawn(n)
    prominence = np.linspace(0, 1, len(drawn)) ** max(2, len(drawn) / 50) if n > 1 else np.ones(1)
    # Viridis without its ends, of which one is not seen on dark pages and the other not on light ones.
    shades = LinearSegmentedColormap.from_list("shades", colormaps["viridis"](np.linspace(0.12, 0.82, 64)))
    colours = shades(quality[drawn])
    colours[:, 3] = 0.15 + 0.8 * prominence
    corners = [np.column_stack([np.arange(count + 1), heights[index]]) for index in drawn]
    axes.add_collection(LineCollection(corners, colors=colours, linewidths=0.5 + 1.3 * prominence))
    if best in data.numbers:
        axes.plot(heights[data.numbers.index(best)], color=INK, linewidth=2, label=f"best trial, {best}")
        figure.legend(loc="outside upper right", fontsize=8)
    for index, axis in enumerate(data.axes):
        axes.axvline(index, color=INK, linewidth=0.8)
        _plot_ticks(axes, index, parallel_ticks(axis) + ([(-0.12, "inactive")] if inactive[:, index].any() else []))
    strip = [[(count, y), (count, y + 0.02)] for y in np.linspace(0, 0.98, 50)]
    axes.add_collection(LineCollection(strip, colors=shades(np.linspace(0, 1, 50)), linewidths=4))
    values = np.linspace(low, high, 5) if high > low else [low]
    _plot_ticks(axes, count, [(0.5 if high == low else (v - low) / (high - low), f"{100 * v:.1f}") for v in values])
    names = [fitted(axis.path, 32).replace(".", ".\n", 1) for axis in data.axes]
    axes.set_xticks(range(count + 1), [*names, f"val accuracy\nat epoch {epoch} (%)"], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(yticks=[], xlim=(-0.1, count + 0.45), ylim=(-0.17 if inactive.any() else -0.05, 1.05))
    axes.spines[:].set_visible(False)
    return figure


def _plot_ticks(axes: Axes, x: int, ticks: list[tuple[float, str]]) -> None:
    for height, label in ticks:
        axes.plot([x, x + 0.03], [height, height], color=INK, linewidth=0.8)
        axes.text(x + 0.05, height, label, fontsize=7, va="center", zorder=6)


def parallel_ticks(axis: ParamAxis) -> list[tuple[float, str]]:
    """(height, label) of the values on an axis: all choices, at most 12, or round numbers."""
    if axis.choices:
        step = -(-len(axis.choices) // 12)
        labels = [fitted(shown(choice), 13) for choice in axis.choices[::step]]
        return list(zip(height_on(axis, range(0, len(axis.choices), step)).tolist(), labels, strict=True))
    if axis.log or axis.low == axis.high:
        ticks = log_ticks(axis.low, axis.high) if axis.log else [axis.low]
    else:
        ticks = [value for value in MaxNLocator(5).tick_values(axis.low, axis.high) if axis.low <= value <= axis.high]
    return list(zip(height_on(axis, ticks).tolist(), map(tick, ticks), strict=True))


def parallel_sentence(data: Lines, epoch: int) -> str:
    """What the best trials have in common on the axes drawn."""
    n = len(data.numbers)
    top = min(n, max(LEAST_TOP, math.ceil(TOP_SHARE * n)))
    if n <= LEAST_TOP or not data.axes:
        return f"{plural(n, 'trial')} after epoch {epoch}: too few to say what the best have in common."
    same, ranges = [], []
    for axis, column in zip(data.axes, data.heights.T, strict=True):
        best = column[-top:]
        if np.isnan(best).any() or np.nanmin(column) == np.nanmax(column):  # what all have, the best have too
            continue
        if axis.choices and np.ptp(best) == 0:
            same.append(f"{axis.path} {shown(axis.choices[round(best[0] * (len(axis.choices) - 1))])}")
        elif not axis.choices and np.ptp(best) < 0.5:
            low, high = unit(axis, np.array([best.min(), best.max()]))
            ranges.append(f"{axis.path} between {low:.3g} and {high:.3g}" if high > low else f"{axis.path} {low:.3g}")
    common = ", ".join(same + ranges)
    found = f"all have {common}" if common else "they have no value of these axes in common"
    thinned = f" {LINES // 2} of the {n - LINES // 2} worst are drawn." if n > LINES else ""
    return f"Of {n} trials after epoch {epoch} the {top} best, the thickest lines: {found}.{thinned}"


def picture(results: SearchResults) -> Picture | None:
    compared = at_equal_epochs(results.trials, results.epochs)
    ranked = by_importance(hyperparameters(results.trials), importance_of(results))
    lines = parallel_coordinates_data(compared, results.space, ranked[:LINES_AXES])
    if len(lines.numbers) < 2 or len(lines.axes) < 2:
        return None
    figure = plot_parallel_coordinates(lines, compared.epoch, results.best_number)
    sentence = parallel_sentence(lines, compared.epoch)
    return Picture("parallel_coordinates", "Trials over parallel axes", figure, sentence)
