"""Learning curves by how trials ended."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.figures.style import COLOURS, ENDINGS, INK, MANY, MUTED, Picture, dots, drawing, grid, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import fitted, on_one_line, percent, plural
from search.record.endings import Ending


def learning_curves_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> dict[Ending, list[pd.DataFrame]]:
    """For each ending, a frame (number, epoch, val_accuracy) for each trial that trained."""
    ordered = epochs[["number", "epoch", "val_accuracy"]].sort_values(["number", "epoch"])
    ended = ordered["number"].map(endings(trials.set_index("number")))
    by_ending = {ending: ordered[ended == ending].groupby("number") for ending in Ending}
    return {ending: [curve for _, curve in curves] for ending, curves in by_ending.items() if len(curves)}


@styled
def plot_learning_curves(data: dict[Ending, list[pd.DataFrame]], best: int | None = None) -> Figure:
    """val accuracy over epochs, one panel for each ending, all curves in grey behind it; the best trial is thick."""
    rows = max(1, -(-len(data) // 2))
    figure = drawing(height=0.4 + 2.3 * rows)
    if not data:
        return message(figure, "no trial has finished an epoch yet")
    grids = figure.subplots(rows, min(2, len(data)), sharex=True, sharey=True, squeeze=False).ravel()
    lines = {
        ending: [curve[["epoch", "val_accuracy"]].to_numpy() * [1, 100] for curve in curves]  # (epochs, 2), in %
        for ending, curves in data.items()
    }
    everything = [line for group in lines.values() for line in group]
    is_many = len(everything) > MANY
    for axes in grids[len(data) :]:
        axes.set_axis_off()
    for axes, (ending, curves) in zip(grids, data.items(), strict=False):
        grey: dict[str, Any] = {"colors": MUTED, "alpha": 0.15, "linewidths": 0.7, "zorder": 1}
        axes.add_collection(LineCollection(everything, rasterized=is_many, **grey))
        alpha = 0.8 if len(curves) < 100 else 0.4
        own: dict[str, Any] = {"colors": COLOURS[ending], "alpha": alpha, "linewidths": 1, "zorder": 3}
        axes.add_collection(LineCollection(lines[ending], rasterized=is_many, **own))
        single = np.array([line[0] for line in lines[ending] if len(line) == 1]).reshape(-1, 2)
        dots(axes, single[:, 0], single[:, 1], len(everything), s=12, color=COLOURS[ending], alpha=alpha)
        for curve, line in zip(curves, lines[ending], strict=True):
            if curve["number"].iloc[0] == best:
                axes.plot(*line.T, color=INK, linewidth=2.2, zorder=4, label=f"trial {best}")
                axes.legend(loc="lower right")
        axes.set_title(f"{ENDINGS[ending]}: {len(curves)}", loc="left", fontweight="bold")
        grid(axes, whole_x=True)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("val accuracy (%)", fontsize=10)
    grids[0].set_xlim(0.9, max(line[-1, 0] for line in everything) + 0.1)
    return figure


def curves_sentence(results: SearchResults) -> str:
    if results.epochs.empty:
        return "No trial has finished an epoch yet."
    ended = endings(results.trials.set_index("number"))
    by_ending = results.epochs["number"].map(ended).value_counts()
    stopped, complete, diverged = ((ended == each).sum() for each in (Ending.ASHA, Ending.COMPLETE, Ending.DIVERGED))
    text = f"{plural(complete, 'trial')} trained all {results.config.train.epochs} epochs"
    if stopped:
        share = by_ending.get(Ending.ASHA, 0) / len(results.epochs)
        text += f"; {stopped} stopped at a rung used {percent(share, 0)} of all epochs"
    return text + (f"; {diverged} diverged." if diverged else ".")


def failures_sentence(trials: pd.DataFrame) -> str:
    """How many trials crashed, and the commonest reason; empty if none did."""
    failed = trials[trials["state"] == "FAIL"]
    if failed.empty:
        return ""
    reasons = failed["reason"].map(on_one_line)
    commonest, count = next(iter(reasons.value_counts().items()))
    why = f"for the reason “{fitted(str(commonest), 160)}”" if commonest else "without a recorded reason"
    return f"{plural(len(failed), 'trial')} failed, most often {why} (n = {count:,})."


def picture(results: SearchResults) -> Picture:
    data = learning_curves_data(results.trials, results.epochs)
    sentence = f"{curves_sentence(results)} {failures_sentence(results.trials)}".strip()
    figure = plot_learning_curves(data, results.best_number)
    return Picture("learning_curves", "Learning curves by ending", figure, sentence)
