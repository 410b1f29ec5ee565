"""Pictures of what mattered in a search: hyperparameters, cost and optimizers against val accuracy at equal epochs."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from analysis.figures.search_figures import ending_of
from analysis.figures.style import COLOURS, INK, MUTED, Picture, drawing, grid, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import hyperparameters
from analysis.text import percent, plural, points, shown

LEAST_COMPARED = 10  # trials; a comparison or an importance of fewer says little
LEAST_AT_COST = 5
LEAST_PER_VALUE = 3  # trials that a median must rest on to be put into words
LEAST_PER_OPTIMIZER = 5
LEAST_TOP, TOP_SHARE = 5, 0.1  # importance is that for being among the best tenth; Optuna advises at least 5 trials
PANELS = 20
LINES, LINES_AXES = 300, 6  # more lines hide each other
MARKS_AS_PIXELS = 300  # more marks than that are drawn as pixels, which keeps an SVG small
DISCRETE = 8  # integers of at most so many values are drawn as categories
WITHIN = 0.01  # one point
DOTS = "#56b4e9"
OPTIMIZER_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]
COSTS = {
    "num_params": "parameters",
    "multiply_adds": "multiply-adds for an image",
    "epoch_seconds": "mean epoch time (s)",
}


@dataclass(frozen=True)
class Comparison:
    """Trials at equal epochs."""

    epoch: int  # counted from 1; 0 where no trial has trained
    trials: pd.DataFrame  # the COMPLETE and PRUNED ones that reached it, with compared_accuracy in [0, 1]
    diverged: pd.DataFrame  # have no accuracy at any epoch: as bad as can be, whenever it happened
    reason: str  # why at this epoch, as a clause


def at_equal_epochs(
    trials: pd.DataFrame, epochs: pd.DataFrame, share: float = 0.5, least: int = LEAST_COMPARED
) -> Comparison:
    """Trials with their val_accuracy after the same number of epochs, `compared_accuracy`.

    The epoch is the latest that at least `share` of the trained trials reached, and at least `least` of them (all,
    where there are fewer). With half of them it is the end of a search without a scheduler, and the first rung of one
    that ASHA thins out: a comparison of the few that were kept is one of the survivors, in which what made trials bad
    is no longer seen.
    """
    endings = pd.Series([ending_of(trial) for trial in trials.itertuples()], index=trials.index, dtype="object")
    diverged = trials[endings == "diverged"]
    ended = trials[trials["state"].isin(["COMPLETE", "PRUNED"]) & (endings != "diverged")]
    curves = epochs[epochs["number"].isin(ended["number"]) & epochs["val_accuracy"].notna()]
    reached = curves.groupby("epoch")["number"].nunique()
    trained = int(curves["number"].nunique())
    if not trained:
        return Comparison(0, ended.iloc[:0].assign(compared_accuracy=pd.Series(dtype="float64")), diverged, "")
    needed = min(trained, max(least, math.ceil(share * trained)))
    enough = reached[reached >= needed]
    epoch = int(enough.index.max()) if len(enough) else int(reached.index[int(reached.to_numpy().argmax())])
    accuracy = curves[curves["epoch"] == epoch].drop_duplicates("number", keep="last").set_index("number")
    compared = ended[ended["number"].isin(accuracy.index)]
    compared = compared.assign(compared_accuracy=compared["number"].map(accuracy["val_accuracy"]).astype("float64"))
    counted = "the only trial" if trained == 1 else f"all {trained} trials" if needed == trained else None
    reason = f"the latest that {counted or f'at least {needed} of {trained} trials'} reached"
    if not len(enough):  # gaps in a journal
        reason = "the first that most trials have a val accuracy of"
    return Comparison(epoch, compared.reset_index(drop=True), diverged, reason)


def entry_of(path: str, space: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of the space that a column was drawn from; a layer's is that of all layers. Empty where unknown."""
    entry = space.get(path) or space.get(path.rpartition(".")[0])
    return entry if isinstance(entry, Mapping) else {}


def distribution_of(entry: Mapping[str, Any]) -> BaseDistribution | None:
    """The Optuna distribution of an entry such as `{float: [lo, hi], log: true}`; None where it has none."""
    step, log = entry.get("step"), bool(entry.get("log"))
    try:
        if "int" in entry:
            low, high = entry["int"]
            return IntDistribution(low, high, log=log, step=int(step or 1))
        if "float" in entry:
            low, high = entry["float"]
            return FloatDistribution(low, high, log=log, step=step)
        return CategoricalDistribution(entry["choice"])
    except (KeyError, TypeError, ValueError):  # edited since
        return None


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


@dataclass(frozen=True)
class ParamAxis:
    """How the values of one hyperparameter lie on an axis: by number, or as categories at 0, 1, 2, ..."""

    path: str
    low: float
    high: float
    log: bool = False
    choices: list[Any] = field(default_factory=list)  # empty for an axis of numbers


def param_axis(path: str, space: Mapping[str, Any], values: Sequence[Any]) -> ParamAxis:
    """The axis of a column: the range of its entry, widened to what was drawn; integers of few values are choices."""
    entry, drawn = entry_of(path, space), [value for value in values if is_drawn(value)]
    distribution = distribution_of(entry)
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in drawn)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        wide = range(distribution.low, distribution.high + 1, distribution.step)
        choices: list[Any] = list(wide) if len(wide) <= DISCRETE else []
    else:
        choices = list(distribution.choices) if isinstance(distribution, CategoricalDistribution) else []
    if choices or not are_numbers or not drawn:
        for value in sorted(drawn, key=str):
            if place_of(value, choices) is None:
                choices.append(value)
        return ParamAxis(path, 0, max(0, len(choices) - 1), choices=choices)
    bounds = (
        [distribution.low, distribution.high] if isinstance(distribution, IntDistribution | FloatDistribution) else []
    )
    low, high = min(*drawn, *bounds, drawn[0]), max(*drawn, *bounds, drawn[0])
    return ParamAxis(path, float(low), float(high), log=bool(entry.get("log")) and low > 0)


def is_drawn(value: Any) -> bool:
    """False for what stands in a table where a hyperparameter was inactive."""
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def place_of(value: Any, choices: Sequence[Any]) -> int | None:
    """The index of a choice; True and 1 are different ones."""
    for index, choice in enumerate(choices):
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return index
    return None


def places(axis: ParamAxis, values: Sequence[Any]) -> NDArray[np.float64]:
    """Values on their axis, (N,): numbers as they are, choices as indices, NaN where inactive."""
    known = [value if is_drawn(value) else None for value in values]
    if axis.choices:
        known = [None if value is None else place_of(value, axis.choices) for value in known]
    return np.array([math.nan if value is None else value for value in known], dtype=np.float64)


def spread(at: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Offsets in +-width/2 that tell marks at the same place apart; the same for the same input."""
    rank = pd.Series(at).groupby(at, dropna=False).cumcount().to_numpy()
    golden = (math.sqrt(5) - 1) / 2
    return np.asarray(((rank * golden + 0.5) % 1 - 0.5) * width, dtype=np.float64)


@dataclass(frozen=True)
class Panel:
    """One hyperparameter against the compared val accuracy."""

    axis: ParamAxis
    points: pd.DataFrame  # number, place, compared_accuracy (NaN: diverged); of the trials where it was active
    medians: pd.DataFrame  # of choices: place, compared_accuracy, n

    @property
    def path(self) -> str:
        return self.axis.path


def axis_plots_data(comparison: Comparison, space: Mapping[str, Any], paths: Sequence[str]) -> list[Panel]:
    """A panel for each path with a value drawn in the compared or diverged trials."""
    numbers = [*comparison.trials["number"], *comparison.diverged["number"]]
    accuracies = [*comparison.trials["compared_accuracy"], *[math.nan] * len(comparison.diverged)]
    panels = []
    for path in paths:
        values = [*comparison.trials[path].tolist(), *comparison.diverged[path].tolist()]
        axis = param_axis(path, space, values)
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
    pixels = len(data) > MARKS_AS_PIXELS
    axes.scatter(x, accuracy, s=13, color=DOTS, alpha=0.7, linewidths=0, zorder=3, rasterized=pixels)
    _plot_marked(axes, data["number"].to_numpy(), x, accuracy, best)
    lost, bottom = x[np.isnan(accuracy)], axes.get_xaxis_transform()
    cross: dict[str, Any] = {"marker": "x", "s": 16, "color": COLOURS["diverged"], "linewidths": 1}
    axes.scatter(lost, np.full(len(lost), 0.04), transform=bottom, rasterized=pixels, **cross)
    for place, median, _ in panel.medians.to_numpy(dtype=np.float64):
        axes.plot([place - 0.36, place + 0.36], [100 * median] * 2, color=INK, linewidth=1.6, zorder=4)
    axes.set_title(clipped(panel.path, 26), fontsize=8.5, loc="left", pad=4)
    axes.tick_params(labelsize=7.5)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    grid(axes)
    _scale(axes, axis)


def _plot_marked(axes: Axes, numbers: Any, x: Any, y: Any, best: int | None) -> None:
    """The best trial as a star, trial 0 as a diamond."""
    styles: dict[int, dict[str, Any]] = {
        0: {"marker": "D", "s": 26, "facecolors": "none", "label": "trial 0, the defaults"}
    }
    if best is not None:
        styles[best] = {"marker": "*", "s": 90, "facecolors": INK, "label": f"best trial, {best}"}
    for number, style in styles.items():
        mark = (numbers == number) & np.isfinite(y)
        if mark.any():
            axes.scatter(x[mark], y[mark], edgecolors=INK, linewidths=1, zorder=5, **style)


def _scale(axes: Axes, axis: ParamAxis) -> None:
    if axis.choices:
        labels = [clipped(shown(choice), 10) for choice in axis.choices]
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
    handles: dict[str, Any] = {"a trial": figure.axes[0].scatter([], [], s=18, color=DOTS)}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if any(len(panel.medians) for panel in data):
        handles["median of a value"] = figure.axes[0].plot([], [], color=INK, linewidth=1.6)[0]
    if any(panel.points["compared_accuracy"].isna().any() for panel in data):
        handles["diverged"] = figure.axes[0].scatter([], [], marker="x", s=18, color=COLOURS["diverged"])
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=5, fontsize=8, columnspacing=1.2)


def clipped(name: str, longest: int) -> str:
    """A name on one line that fits; what it ends with is kept, since paths differ there."""
    name = " ".join(name.split())
    return name if len(name) <= longest else "…" + name[-longest + 1 :]


def tick(value: float) -> str:
    """`0.001`, `1e-6`."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def log_ticks(low: float, high: float) -> list[float]:
    """At most four round numbers between two positive ones, powers of ten where two lie there; else the two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ([1], [1, 2, 5], range(1, 10)):
        round_numbers = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        inside = [number for number in round_numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]
        if len(inside) > 1:
            return inside[:: -(-len(inside) // 4)]
    return sorted({low, high})


def unit(axis: ParamAxis, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places at these shares of an axis, 0 its low and 1 its high end; an axis of one value is widened by a tenth."""
    low, high = (math.log10(axis.low), math.log10(axis.high)) if axis.log else (axis.low, axis.high)
    if low == high:
        low, high = low - 0.1 * max(abs(low), 1), high + 0.1 * max(abs(high), 1)
    at = low + shares * (high - low)
    return 10**at if axis.log else at


@dataclass(frozen=True)
class Importance:
    """PED-ANOVA: how much the values of the best trials are distributed differently from those of all."""

    shares: dict[str, float]  # largest first, sum 1; empty where there is no saying
    top: int  # trials that count as best
    n: int  # compared trials, and diverged ones as the worst
    reason: str = ""  # why there is none


def importance_data(
    comparison: Comparison, params: Mapping[int, Mapping[str, Any]], space: Mapping[str, Any]
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
        drawn = {name: (value, distribution_of(entry_of(name, space))) for name, value in params[int(number)].items()}
        usable = {name: known for name, (value, known) in drawn.items() if known is not None and contains(known, value)}
        values = {name: drawn[name][0] for name in usable}
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
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of hyperparameters active only once; of `normalize`, which is experimental
            study = optuna.create_study(direction="maximize")
            study.add_trials(trials)
            return optuna.importance.get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    finally:
        optuna.logging.set_verbosity(verbosity)


@styled
def plot_importance(data: Importance) -> Figure:
    """A bar for each hyperparameter, the most important first, at most 20."""
    if not data.shares:
        return message(drawing(height=1.2), "no importance: " + data.reason)
    listed = list(data.shares.items())[:PANELS]
    figure = drawing(height=0.7 + 0.24 * len(listed))
    axes = figure.subplots()
    names, shares = [clipped(name, 32) for name, _ in listed], [100 * share for _, share in listed]
    axes.barh(range(len(listed)), shares, height=0.66, color=COLOURS["complete"])
    for row, share in enumerate(shares):
        axes.text(share, row, f" {share:.0f} %" if share >= 1 else " < 1 %", va="center", fontsize=8)
    axes.set_yticks(range(len(listed)), names, fontsize=8.5)
    axes.set(xlabel="share of the importance (%)", xlim=(0, 1.12 * max(shares)), ylim=(len(listed) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    grid(axes)
    axes.yaxis.grid(False)
    return figure


def by_importance(paths: Sequence[str], importance: Importance) -> list[str]:
    """Paths, the most important first; those without an importance after them, in their order."""
    return sorted(paths, key=lambda path: -importance.shares.get(path, 0.0))


@dataclass(frozen=True)
class Lines:
    """Trials as lines over parallel axes, the worst first."""

    axes: list[ParamAxis]
    heights: NDArray[np.float64]  # (trials, axes), on each axis in [0, 1]; NaN where inactive
    accuracy: NDArray[np.float64]  # (trials,), compared
    numbers: list[int]


def parallel_coordinates_data(comparison: Comparison, space: Mapping[str, Any], paths: Sequence[str]) -> Lines:
    """Compared trials over the hyperparameters that were drawn in one of them."""
    trials = comparison.trials.sort_values(["compared_accuracy", "number"], ascending=[True, False])
    axes, heights = [], []
    for path in paths:
        values = trials[path].tolist()
        axis = param_axis(path, space, values)
        at = places(axis, values)
        if np.isfinite(at).any():
            axes.append(axis)
            heights.append(height_on(axis, at))
    stacked = np.stack(heights, axis=1) if heights else np.empty((len(trials), 0))
    return Lines(axes, stacked, trials["compared_accuracy"].to_numpy(), [int(number) for number in trials["number"]])


def height_on(axis: ParamAxis, at: ArrayLike) -> NDArray[np.float64]:
    """Places as shares of their axis, in [0, 1]; 0.5 on an axis of one value."""
    scale = np.log10 if axis.log else np.asarray
    low, high, scaled = float(scale(axis.low)), float(scale(axis.high)), np.asarray(scale(at), dtype=np.float64)
    return np.where(np.isnan(scaled), np.nan, 0.5) if low == high else (scaled - low) / (high - low)


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
    colours = _shades()(quality[drawn])
    colours[:, 3] = 0.15 + 0.8 * prominence
    corners = [np.column_stack([np.arange(count + 1), heights[index]]) for index in drawn]
    axes.add_collection(LineCollection(corners, colors=colours, linewidths=0.5 + 1.3 * prominence))
    if best in data.numbers:
        axes.plot(heights[data.numbers.index(best)], color=INK, linewidth=2, label=f"best trial, {best}")
        figure.legend(loc="outside upper right", fontsize=8)
    for index, axis in enumerate(data.axes):
        axes.axvline(index, color=INK, linewidth=0.8)
        ticks = parallel_ticks(axis) + ([(-0.12, "inactive")] if inactive[:, index].any() else [])
        _plot_ticks(axes, index, ticks)
    strip = [[(count, y), (count, y + 0.02)] for y in np.linspace(0, 0.98, 50)]
    axes.add_collection(LineCollection(strip, colors=_shades()(np.linspace(0, 1, 50)), linewidths=4))
    values = np.linspace(low, high, 5) if high > low else [low]
    _plot_ticks(axes, count, [(0.5 if high == low else (v - low) / (high - low), f"{100 * v:.1f}") for v in values])
    names = [clipped(axis.path, 32).replace(".", ".\n", 1) for axis in data.axes]
    axes.set_xticks(range(count + 1), [*names, f"val accuracy\nat epoch {epoch} (%)"], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set(xlim=(-0.1, count + 0.45), ylim=(-0.17 if inactive.any() else -0.05, 1.05))
    axes.spines[:].set_visible(False)
    return figure


def _shades() -> Colormap:
    """Viridis without its ends, of which one is not seen on dark pages and the other not on light ones."""
    return LinearSegmentedColormap.from_list("shades", colormaps["viridis"](np.linspace(0.12, 0.82, 64)))


def _plot_ticks(axes: Axes, x: int, ticks: list[tuple[float, str]]) -> None:
    for height, label in ticks:
        axes.plot([x, x + 0.03], [height, height], color=INK, linewidth=0.8)
        axes.text(x + 0.05, height, label, fontsize=7, va="center", zorder=6)


def parallel_ticks(axis: ParamAxis) -> list[tuple[float, str]]:
    """(height, label) of the values on an axis: all choices, at most 12, or round numbers."""
    if axis.choices:
        at = np.arange(0, len(axis.choices), -(-len(axis.choices) // 12))
        labels = [clipped(shown(axis.choices[place]), 9) for place in at]
        return list(zip(height_on(axis, at).tolist(), labels, strict=True))
    if axis.log or axis.low == axis.high:
        ticks = np.array(log_ticks(axis.low, axis.high) if axis.log else [axis.low])
    else:
        ticks = np.asarray(MaxNLocator(5).tick_values(axis.low, axis.high))
        ticks = ticks[(ticks >= axis.low) & (ticks <= axis.high)]
    return [(float(height), tick(value)) for height, value in zip(height_on(axis, ticks), ticks, strict=True)]


def pareto_front(cost: ArrayLike, accuracy: ArrayLike) -> NDArray[np.bool_]:
    """Which of N are on the front, (N,): no other costs no more and is as accurate, and is better in one of the two.

    Equals are all on it; NaN in either is not.
    """
    cost, accuracy = np.asarray(cost, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    front = np.zeros(len(cost), dtype=bool)
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(accuracy)))
    best, at_cost = -math.inf, math.nan
    for index in known[np.lexsort((-accuracy[known], cost[known]))]:
        equals_last = cost[index] == at_cost and accuracy[index] == best
        if accuracy[index] > best or equals_last:
            front[index], best, at_cost = True, accuracy[index], cost[index]
    return front


def cost_data(comparison: Comparison, epochs: pd.DataFrame) -> pd.DataFrame:
    """Compared trials: number, compared_accuracy, num_params, multiply_adds, epoch_seconds (mean of its epochs).

    NaN for what is not known or not above 0.
    """
    data = comparison.trials[["number", "compared_accuracy", "num_params", "multiply_adds"]].copy()
    data["epoch_seconds"] = data["number"].map(epochs.groupby("number")["epoch_seconds"].mean())
    for name in COSTS:
        costs = data[name].astype("float64")
        data[name] = costs.where(costs > 0)
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
        pixels = len(known) > MARKS_AS_PIXELS
        axes.scatter(cost, accuracy, s=16, color=DOTS, alpha=0.7, linewidths=0, zorder=3, rasterized=pixels)
        front = known[pareto_front(cost, accuracy)].sort_values([name, "compared_accuracy"])
        ends = [*front[name], cost.max()], [*(100 * front["compared_accuracy"]), accuracy.max()]
        axes.step(*ends, where="post", color=COLOURS["asha"], linewidth=1.6, zorder=2, label="Pareto front")
        _plot_marked(axes, known["number"].to_numpy(), cost, accuracy, best)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = float(cost.min()), float(cost.max())
        axes.set_xticks(log_ticks(low, high))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: metric(value)))
        axes.set_xlim(*unit(ParamAxis(name, low, high, log=True), np.array([-0.08, 1.08])))
        axes.set_xlabel(COSTS[name], fontsize=9)
        axes.tick_params(labelsize=8)
        grid(axes)
    panels[0].set_ylabel(f"val accuracy at epoch {epoch} (%)", fontsize=9)
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def metric(value: float) -> str:
    """`50`, `10 k`, `2.5 M`: a tick of a count or of seconds."""
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class OptimizerResult:
    """The compared trials of one optimizer, and the curve of those among them that got furthest."""

    name: str
    accuracy: NDArray[np.float64]  # (n,), compared
    diverged: int
    best_number: int
    best_learning_rate: float  # of its most accurate trial; NaN where unknown
    curve: pd.Series  # epoch -> median val_loss in nats, of the same trials at every epoch
    curve_n: int


def optimizers_data(comparison: Comparison, epochs: pd.DataFrame) -> list[OptimizerResult]:
    """By optimizer, the highest median first; empty where the search compares fewer than two."""
    trials = comparison.trials
    if "optimizer.name" not in trials or trials["optimizer.name"].nunique() < 2:
        return []
    results = []
    for name, group in trials.groupby("optimizer.name", sort=True):
        best = group.sort_values(["compared_accuracy", "number"], ascending=[False, True]).iloc[0]
        rate = best.get("optimizer.learning_rate")
        losses = epochs[epochs["number"].isin(group["number"]) & epochs["val_loss"].notna()]
        reached = losses.groupby("number")["epoch"].max()
        furthest = reached[reached == reached.max()].index
        results.append(
            OptimizerResult(
                name=str(name),
                accuracy=group["compared_accuracy"].to_numpy(),
                diverged=int((comparison.diverged["optimizer.name"] == name).sum()),
                best_number=int(best["number"]),
                best_learning_rate=float(rate) if rate is not None else math.nan,
                curve=losses[losses["number"].isin(furthest)].groupby("epoch")["val_loss"].median(),
                curve_n=len(furthest),
            )
        )
    return sorted(results, key=lambda each: -float(np.median(each.accuracy)))


@styled
def plot_optimizers(data: list[OptimizerResult], epoch: int) -> Figure:
    """Trials by optimizer with medians and quartiles; median val loss over the epochs of those that got furthest."""
    if not data:
        return message(drawing(height=1.2), "fewer than two optimizers can be compared")
    figure = drawing(height=3.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    total = sum(len(each.accuracy) for each in data)
    for place, each in enumerate(data):
        colour = OPTIMIZER_COLOURS[place % len(OPTIMIZER_COLOURS)]
        accuracy, at = 100 * each.accuracy, np.full(len(each.accuracy), float(place))
        pixels = total > MARKS_AS_PIXELS
        left.scatter(
            at + spread(at, 0.5), accuracy, s=14, color=colour, alpha=0.55, linewidths=0, zorder=3, rasterized=pixels
        )
        low, middle, high = np.percentile(accuracy, [25, 50, 75])
        left.plot([place - 0.34, place + 0.34], [middle, middle], color=INK, linewidth=2, zorder=4)
        if len(accuracy) >= LEAST_PER_OPTIMIZER:
            left.plot([place, place], [low, high], color=INK, linewidth=1, zorder=4)
        if len(each.curve):
            right.plot(
                each.curve.index,
                each.curve,
                color=colour,
                marker="o",
                markersize=3.5,
                label=f"{clipped(each.name, 12)}: {plural(each.curve_n, 'trial')} to epoch {each.curve.index.max()}",
            )
    left.set_xticks(range(len(data)), [_optimizer_label(each) for each in data], fontsize=7.5)
    left.set(xlim=(-0.6, len(data) - 0.4))
    left.set_ylabel(f"val accuracy at epoch {epoch} (%)", fontsize=9)
    right.set_xlabel("epoch", fontsize=9)
    right.set_ylabel("median val loss (nats)", fontsize=9)
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max((int(each.curve.index.max()) for each in data if len(each.curve)), default=1)
    right.set_xlim(0.8, max(last, 2) + 0.2)
    for axes in (left, right):
        axes.tick_params(axis="y", labelsize=8)
        grid(axes)
    left.xaxis.grid(False)
    right.tick_params(axis="x", labelsize=8)
    if any(len(each.curve) for each in data):
        right.legend(fontsize=7.5)
    else:  # no epoch but in the journal, which holds no loss
        right.text(0.5, 0.5, "no losses are left", transform=right.transAxes, ha="center", va="center", color=MUTED)
    return figure


def _optimizer_label(each: OptimizerResult) -> str:
    lines = [clipped(each.name, 8), f"n = {len(each.accuracy)}"]
    if each.diverged:
        lines.append(f"+ {each.diverged} div.")
    return "\n".join(lines)


def compared_text(comparison: Comparison, total_epochs: int) -> str:
    """After which of `total_epochs` how many trials are compared, and why then."""
    n, diverged = len(comparison.trials), len(comparison.diverged)
    left = f"; {diverged} that diverged {'has' if diverged == 1 else 'have'} no accuracy" if diverged else ""
    early = " So early, what learns fast looks good." if 2 * comparison.epoch <= total_epochs else ""
    return (
        f"Trials are compared by their val accuracy after epoch {comparison.epoch} of {total_epochs}, "
        f"{comparison.reason} (n = {n}{left}).{early}"
    )


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


def parallel_sentence(data: Lines, epoch: int) -> str:
    """What the best trials have in common on the axes drawn."""
    n = len(data.numbers)
    top = min(n, max(LEAST_TOP, math.ceil(TOP_SHARE * n)))
    if n <= LEAST_TOP or not data.axes:
        return f"{plural(n, 'trial')} after epoch {epoch}: too few to say what the best have in common."
    same, ranges = [], []
    for axis, column in zip(data.axes, data.heights.T, strict=True):
        heights = column[-top:]
        active = heights[~np.isnan(heights)]
        if len(active) < top or np.nanmin(column) == np.nanmax(column):  # what all have, the best have too
            continue
        if axis.choices:
            if np.ptp(active) == 0:
                place = round(active[0] * (len(axis.choices) - 1)) if len(axis.choices) > 1 else 0
                same.append(f"{axis.path} {shown(axis.choices[place])}")
        elif np.ptp(active) < 0.5:
            low, high = unit(axis, np.array([active.min(), active.max()]))
            ranges.append(f"{axis.path} between {low:.3g} and {high:.3g}" if high > low else f"{axis.path} {low:.3g}")
    common = same + ranges
    found = f"all have {', '.join(common)}" if common else "they have no value of these axes in common"
    thinned = f" {LINES // 2} of the {n - LINES // 2} worst are drawn." if n > LINES else ""
    return f"Of {n} trials after epoch {epoch} the {top} best, the thickest lines: {found}.{thinned}"


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
    changes = {what: small[name] / best[name] - 1 for name, what in units.items()}
    savings = [
        f"{percent(abs(change), 0)} {'fewer' if change <= 0 else 'more'} {what}"
        for what, change in changes.items()
        if not math.isnan(change)
    ]
    return text + (
        f"The smallest network within 1 point of the best, trial {int(best['number'])} ({there}), is that of trial "
        f"{int(small['number'])}: {points(small['compared_accuracy'] - best['compared_accuracy'])} points, "
        f"{', '.join(savings)}."
    )


def optimizers_sentence(data: list[OptimizerResult], epoch: int) -> str:
    best, worst = data[0], data[-1]
    text = (
        f"The median val accuracy after epoch {epoch} is highest with {best.name}, "
        f"{percent(np.median(best.accuracy), 1)} (n = {len(best.accuracy)}), and lowest with {worst.name}, "
        f"{percent(np.median(worst.accuracy), 1)} (n = {len(worst.accuracy)})."
    )
    rates = [
        f"{tick(float(f'{each.best_learning_rate:.2g}'))} for {each.name}"
        for each in data
        if not math.isnan(each.best_learning_rate)
    ]
    if rates:
        text += f" The learning rate of each one's best trial is {', '.join(rates)}."
    few = [each.name for each in data if len(each.accuracy) < LEAST_PER_OPTIMIZER]
    if few:
        text += (
            f" Fewer than {LEAST_PER_OPTIMIZER} trials used {', '.join(few)}: a search gives few trials to what it "
            "found bad at first, and this is no fair comparison."
        )
    return text


def space_pictures(results: SearchResults) -> list[Picture]:
    """What mattered, for the report; nothing where no trial has trained."""
    compared = at_equal_epochs(results.trials, results.epochs)
    if not compared.epoch:
        return []
    best = None if results.best_trial is None else results.best_trial.number
    pictures = _hyperparameter_pictures(results, compared, best)
    furthest = at_equal_epochs(results.trials, results.epochs, share=0, least=LEAST_AT_COST)
    costs = cost_data(furthest, results.epochs)
    if costs[list(COSTS)].notna().any(axis=None):
        drawn = plot_cost(costs, furthest.epoch, best)
        pictures.append(Picture("cost", "Accuracy against cost", drawn, cost_sentence(furthest, costs)))
    optimizers = optimizers_data(compared, results.epochs)
    if optimizers:
        sentence = optimizers_sentence(optimizers, compared.epoch)
        pictures.append(Picture("optimizers", "Optimizers", plot_optimizers(optimizers, compared.epoch), sentence))
    return pictures


def _hyperparameter_pictures(results: SearchResults, compared: Comparison, best: int | None) -> list[Picture]:
    paths, space, epoch = hyperparameters(results.trials), results.space, compared.epoch
    importance = importance_data(compared, results.params, space)
    ranked = by_importance(paths, importance)
    panels = axis_plots_data(compared, space, [path for path in paths if path in ranked[:PANELS]])
    if not panels:
        return []
    sentence = axes_sentence(compared, panels, len(paths), results.config.train.epochs)
    pictures = [
        Picture("hyperparameters", "Accuracy against each hyperparameter", plot_axes(panels, epoch, best), sentence),
        Picture(
            "importance",
            "Importance of hyperparameters",
            plot_importance(importance),
            importance_sentence(importance, epoch),
        ),
    ]
    lines = parallel_coordinates_data(compared, space, ranked[:LINES_AXES])
    if len(lines.numbers) > 1 and len(lines.axes) > 1:
        drawn = plot_parallel_coordinates(lines, epoch, best)
        sentence = parallel_sentence(lines, epoch)
        pictures.append(Picture("parallel_coordinates", "Trials over parallel axes", drawn, sentence))
    return pictures
