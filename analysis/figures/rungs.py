"""Whom ASHA stopped: every trial at each rung that it reached, and the cutoff that it met there."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLUE, INK, MUTED, ORANGE, Picture, dots, drawing, grid, legend, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import percent, plural
from search.record.endings import Ending
from search.record.rungs import cutoff, rung_epochs

OUTCOMES = {"stopped": ORANGE, "went on": BLUE, "no verdict": MUTED}  # at a rung


def judged_data(trials: pd.DataFrame, epochs: pd.DataFrame, rungs: list[int], reduction_factor: float) -> pd.DataFrame:
    """A row for each trial at each rung that it reached, in the order they did: number, val_accuracy, rung, outcome,
    cutoff.

    `val_accuracy` is that after the rung's epoch, whatever came later. `outcome` is a key of OUTCOMES: no verdict
    if the trial is still there or ended otherwise. `cutoff` is that of search.record.rungs, from those before; NaN for
    the first.
    """
    ended = endings(trials.set_index("number"))
    lasts = epochs.groupby("number")["epoch"].max()
    known = epochs[epochs["number"].isin(ended.index) & epochs["val_accuracy"].notna()]
    frames = []
    for rung in rungs:
        there = known.loc[known["epoch"] == rung].sort_values(["finished_at", "number"])
        went_on = there["number"].map(lasts) > rung
        stopped = ~went_on & (there["number"].map(ended) == Ending.ASHA)
        values = there["val_accuracy"].tolist()
        frames.append(
            there[["number", "val_accuracy"]].assign(
                rung=rung,
                outcome=np.select([went_on, stopped], ["went on", "stopped"], "no verdict"),
                cutoff=[cutoff(values[:index], reduction_factor) for index in range(len(values))],
            )
        )
    return pd.concat(frames, ignore_index=True)


def rungs_data(judged: pd.DataFrame) -> pd.DataFrame:
    """From judged_data, a row for each rung that was reached: rung, reached, stopped, went_on, best_stopped,
    worst_went_on (val accuracies, NaN if there is none).
    """
    values = judged["val_accuracy"]
    stopped, went_on = (values.where(judged["outcome"] == outcome) for outcome in ("stopped", "went on"))
    by_rung = judged.assign(stopped=stopped, went_on=went_on).groupby("rung", as_index=False)
    return by_rung.agg(
        reached=("number", "size"),
        stopped=("stopped", "count"),
        went_on=("went_on", "count"),
        best_stopped=("stopped", "max"),
        worst_went_on=("went_on", "min"),
    )


@styled
def plot_rungs(judged: pd.DataFrame, best: int | None = None) -> Figure:
    """val accuracy of every trial at each rung it reached, left to right in the order they came, and the cutoff."""
    figure = drawing(height=3.8)
    if judged.empty:
        return message(figure, "no trial has reached a rung yet")
    axes = figure.subplots()
    by_rung = judged.groupby("rung")
    places = by_rung.ngroup() - 0.45 + 0.9 * (by_rung.cumcount() + 0.5) / by_rung["number"].transform("size")
    accuracy = 100 * judged["val_accuracy"]
    for outcome, colour in OUTCOMES.items():
        marked = judged["outcome"] == outcome
        if marked.any():
            dots(axes, places[marked], accuracy[marked], len(judged), s=20, color=colour, alpha=0.85)
            axes.plot([], [], "o", markersize=5, color=colour, label=f"{outcome}: {marked.sum()}")
    ring: dict[str, Any] = {"s": 60, "facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "zorder": 4}
    for number, (marker, label) in {0: ("s", "trial 0, never stopped"), best: ("o", f"trial {best}, the best")}.items():
        marked = judged["number"] == number
        if marked.any():
            axes.scatter(places[marked], accuracy[marked], marker=marker, label=label, **ring)
    line: dict[str, Any] = {"where": "mid", "color": INK, "linewidth": 1.2, "label": "cutoff, from those before"}
    for _, there in judged.dropna(subset="cutoff").groupby("rung"):
        axes.step(places[there.index], 100 * there["cutoff"], zorder=3.5, **line)
    _label_rungs(axes, rungs_data(judged))
    axes.set_ylabel("val accuracy (%)")
    grid(axes, "y")
    legend(figure, ncols=3)
    return figure


def _label_rungs(axes: Axes, table: pd.DataFrame) -> None:
    """Counts under each rung if there is room, else every so many epochs."""
    words, label = "{}\n{}\n{}", "rung (epoch); below it, how many were stopped, and how many went on"
    if len(table) <= 5:
        words, label = "epoch {}\n{} stopped\n{} went on", "rung; in each, trials in the order they reached it"
    named = table.iloc[:: -(-len(table) // 12)]
    labels = [words.format(row.rung, row.stopped, row.went_on) for row in named.itertuples()]
    axes.set_xticks(named.index, labels)
    axes.set(xlabel=label, xlim=(-0.52, len(table) - 0.48))


def rungs_sentence(judged: pd.DataFrame, best: int | None = None) -> str:
    table = rungs_data(judged)
    if table.empty:
        return "No trial has reached a rung yet."
    parts = []
    for row in table.head(3).to_dict("records"):
        highest = f" (the best at {percent(row['best_stopped'])})" if row["stopped"] else ""
        lowest = f" (the lowest at {percent(row['worst_went_on'])})" if row["went_on"] else ""
        parts.append(
            f"At the rung after epoch {row['rung']}: {plural(row['reached'], 'trial')}, {row['stopped']} "
            f"stopped{highest}, {row['went_on']} went on{lowest}."
        )
    if len(table) > 3:
        parts.append(f"At the later rungs, {table['stopped'].iloc[3:].sum()} more were stopped.")
    accuracy = judged.groupby("rung")["val_accuracy"]
    ranked = judged.assign(place=accuracy.rank("min", ascending=False), n=accuracy.transform("size"))
    own = ranked[(ranked["number"] == best) & (ranked["n"] > 1)]
    places = [f"{row.place:.0f} of {row.n} after epoch {row.rung}" for row in own.itertuples()]
    if places:
        shown = places if len(places) <= 3 else [places[0], places[-1]]
        parts.append(f"The best trial, {best}, was number {' and '.join(shown)}.")
    return " ".join(parts)


def picture(results: SearchResults) -> Picture | None:
    scheduler, best = results.settings.scheduler, results.best_number
    rungs = rung_epochs(scheduler.grace_epochs, scheduler.reduction_factor, results.config.train.epochs)
    if scheduler.name != "asha" or not rungs:
        return None
    judged = judged_data(results.trials, results.epochs, rungs, scheduler.reduction_factor)
    return Picture("rungs", "Who was stopped at the rungs", plot_rungs(judged, best), rungs_sentence(judged, best))
