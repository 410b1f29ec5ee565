"""The best configurations trained again with fresh seeds."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import BEST, INK, MUTED, Picture, drawing, grid, legend, message, styled
from analysis.findings.confirmation import Confirmation, confirmation_data
from analysis.reading.results import SearchResults
from analysis.text import plural

SHOWN = 20  # configurations, the defaults aside


@styled
def plot_confirmation(data: pd.DataFrame, trainings: pd.DataFrame) -> Figure:
    """Each training as a dot, with mean and 95 % interval: val, with the search's accuracy, on the left, test right."""
    if data.empty:
        return message(drawing(height=0.8), "no network has been trained again to the end yet")
    shown = pd.concat([data[data["source_number"] != 0].head(SHOWN), data[data["source_number"] == 0]])
    splits = ["val", "test"] if shown["test_n"].any() else ["val"]
    figure = drawing(height=1.15 + 0.42 * len(shown))
    grids = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(grids, splits, strict=True):
        for place, row in enumerate(shown.to_dict("records")):
            colour = MUTED if row["source_number"] == 0 else BEST
            own = 100 * trainings.loc[trainings["source_number"] == row["source_number"], f"{split}_accuracy"].dropna()
            _plot_trainings(axes, place, own, 100 * (row[f"{split}_mean"] - row[f"{split}_low"]), colour)
            if split == "val":
                axes.plot(100 * row["search_val_accuracy"], place, "D", mfc="none", mec=colour, markersize=6, zorder=3)
        axes.set(xlabel=f"{split} accuracy (%)", ylim=(len(shown) - 0.4, -0.6))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=2))
        axes.margins(x=0.08)
        axes.tick_params(axis="y", length=0)
        grid(axes)
    labels = ["defaults" if number == 0 else f"trial {number}" for number in shown["source_number"]]
    grids[0].set_yticks(range(len(shown)), labels)
    grids[0].plot([], [], "D", mfc="none", mec=INK, markersize=6, label="in the search")
    grids[0].plot([], [], "o", color=INK, alpha=0.55, markersize=4.5, markeredgewidth=0, label="trained again")
    grids[0].errorbar([], [], xerr=[], fmt="|", color=INK, markersize=9, capsize=3, label="mean, 95 % interval")
    legend(figure, ncols=3)
    return figure


def _plot_trainings(axes: Axes, place: int, accuracy: pd.Series, half: float, colour: str) -> None:
    """Dots above the line of a configuration, mean and interval below; nothing for no values."""
    dot: dict[str, Any] = {"alpha": 0.55, "markersize": 5, "markeredgewidth": 0, "zorder": 2}
    axes.plot(accuracy, [place - 0.16] * len(accuracy), "o", color=colour, **dot)
    bar: dict[str, Any] = {"fmt": "|", "markersize": 9, "elinewidth": 1.6, "capsize": 3 if half > 0 else 0, "zorder": 3}
    axes.errorbar(accuracy.mean(), place + 0.16, xerr=np.nan_to_num(half), color=colour, **bar)


def confirmation_sentence(data: pd.DataFrame) -> str:
    """What plot_confirmation shows: how far configurations lie apart, and how well each is known."""
    if data.empty:
        return "No network has been trained again to the end yet."
    split = "test" if data["test_n"].any() else "val"
    means = data.loc[data[f"{split}_n"] > 0, f"{split}_mean"]
    several = data[data[f"{split}_n"] > 1]
    configurations = plural(len(data), "configuration")
    text = f"{configurations}, {plural(int(data['val_n'].sum()), 'training')}"
    if len(means) > 1:
        text += f": mean {split} accuracies lie within {100 * (means.max() - means.min()):.2f} points of each other"
    halves = 100 * (several[f"{split}_high"] - several[f"{split}_mean"])
    if halves.min() > 0:  # NaN where there are none
        text += f"; each is known to ±{halves.max():.2f} points or better (95 % t interval)"
    ranked = data[data["source_number"] != 0]
    left_out = f" The {SHOWN} best in the search of {len(ranked)} are shown." if len(ranked) > SHOWN else ""
    return f"{text}.{left_out}"


def picture(confirmation: Confirmation, results: SearchResults) -> Picture:
    data = confirmation_data(confirmation.trainings, results.trials)
    figure = plot_confirmation(data, confirmation.trainings)
    return Picture("confirmation", "Trained again with fresh seeds", figure, confirmation_sentence(data))
