"""Whom ASHA stopped: every trial at each rung that it reached, and the cutoff that it met there."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import COLOURS, INK, MANY, MUTED, Picture, drawing, grid, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import percent, plural
from search.record.endings import Ending
from search.record.rungs import cutoff, rung_epochs

OUTCOMES = {"stopped": COLOURS[Ending.ASHA], "went on": COLOURS[Ending.COMPLETE], "no verdict": MUTED}  # at a rung


def judged_data(trials: pd.DataFrame, epochs: pd.DataFrame, rungs: list[int], reduction_factor: float) -> pd.DataFrame:
    """A row for each trial at each rung that it reached, in the order they did: rung, number, val_accuracy, outcome,
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
        there = known[known["epoch"] == rung].sort_values(["finished_at", "number"])
        went_on = there["number"].map(lasts) > rung
        stopped = ~went_on & (there["number"].map(ended) == Ending.ASHA)
        values = there["val_accuracy"].tolist()
        frames.append(
            pd.DataFrame(
                {
                    "rung": rung,
                    "number": there["number"],
                    "val_accuracy": values,
                    "outcome": np.select([went_on, stopped], ["went on", "stopped"], "no verdict"),
                    "cutoff": [cutoff(values[:index], reduction_factor) for index in range(len(values))],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def rungs_data(judged: pd.DataFrame) -> pd.DataFrame:
    """From judged_data, a row for each rung that was reached: rung, reached, stopped, went_on, best_stopped,
    worst_went_on (val accuracies, NaN if there is none).
    """
    columns = ["rung", "reached", "stopped", "went_on", "best_stopped", "worst_went_on"]
    rows = []
    for rung, there in judged.groupby("rung"):
        stopped = there.loc[there["outcome"] == "stopped", "val_accuracy"]
        went_on = there.loc[there["outcome"] == "went on", "val_accuracy"]
        rows.append((rung, len(there), len(stopped), len(went_on), stopped.max(), went_on.min()))
    return pd.DataFrame(rows, columns=columns)


@styled
def plot_rungs(judged: pd.DataFrame, best: int | None = None) -> Figure:
    """val accuracy of every trial at each rung it reached, left to right in the order they came, and the cutoff."""
    figure = drawing(height=3.8)
    if judged.empty:
        return message(figure, "no trial has reached a rung yet")
    axes = figure.subplots()
    counts = judged.groupby("rung")["number"].transform("size")
    rungs = sorted(judged["rung"].unique())
    centres = judged["rung"].map({rung: index for index, rung in enumerate(rungs)})
    places = centres - 0.45 + 0.9 * (judged.groupby("rung").cumcount() + 0.5) / counts
    accuracy = 100 * judged["val_accuracy"]
    for outcome, colour in OUTCOMES.items():
        marked = judged["outcome"] == outcome
        if marked.any():
            options: dict[str, Any] = {"linewidths": 0, "alpha": 0.85, "rasterized": len(judged) > MANY, "zorder": 3}
            axes.scatter(places[marked], accuracy[marked], s=20, color=colour, **options)
            axes.plot([], [], "o", markersize=5, color=colour, label=f"{outcome}: {marked.sum()}")
    rings = {0: ("s", "trial 0, never stopped"), **({} if best is None else {best: ("o", f"trial {best}, the best")})}
    for number, (marker, label) in rings.items():
        marked = judged["number"] == number
        if marked.any():
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "zorder": 4}
            axes.scatter(places[marked], accuracy[marked], s=60, marker=marker, label=label, **ring)
    for index in range(len(rungs)):
        there = (centres == index) & judged["cutoff"].notna()
        axes.step(places[there], 100 * judged.loc[there, "cutoff"], where="mid", color=INK, linewidth=1.2, zorder=3.5)
    if judged["cutoff"].notna().any():
        axes.plot([], [], color=INK, linewidth=1.2, label="cutoff, from those before")
    _label_rungs(axes, rungs_data(judged))
    axes.set_ylabel("val accuracy (%)")
    grid(axes)
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _label_rungs(axes: Any, table: pd.DataFrame) -> None:
    """Counts under each rung if there is room, else every so many epochs."""
    axes.set_xlim(-0.52, len(table) - 0.48)
    if len(table) <= 5:
        labels = [f"epoch {row.rung}\n{row.stopped} stopped\n{row.went_on} went on" for row in table.itertuples()]
        axes.set_xticks(range(len(table)), labels)
        axes.set_xlabel("rung; in each, trials in the order they reached it")
        return
    shown = table.iloc[:: -(-len(table) // 12)]
    axes.set_xticks(shown.index, [f"{row.rung}\n{row.stopped}\n{row.went_on}" for row in shown.itertuples()])
    axes.set_xlabel("rung (epoch); below it, how many were stopped, and how many went on")


def rungs_sentence(judged: pd.DataFrame, best: int | None = None) -> str:
    table = rungs_data(judged)
    if table.empty:
        return "No trial has reached a rung yet."
    parts = []
    for _, row in table.head(3).iterrows():
        part = f"At the rung after epoch {row['rung']:.0f}: {plural(int(row['reached']), 'trial')}"
        part += f", {row['stopped']:.0f} stopped"
        part += f" (the best at {percent(row['best_stopped'])})" if row["stopped"] else ""
        part += f", {row['went_on']:.0f} went on"
        part += f" (the lowest at {percent(row['worst_went_on'])})" if row["went_on"] else ""
        parts.append(part + ".")
    if len(table) > 3:
        parts.append(f"At the later rungs, {table['stopped'].iloc[3:].sum()} more were stopped.")
    places = []
    for rung, there in judged.groupby("rung"):
        own = there.loc[there["number"] == best, "val_accuracy"]
        if len(own) and len(there) > 1:
            places.append(f"{1 + (there['val_accuracy'] > own.iloc[0]).sum()} of {len(there)} after epoch {rung}")
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
