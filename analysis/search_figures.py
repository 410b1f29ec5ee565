"""Pictures of a search: the best val accuracy over time, and learning curves by how trials ended."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.results import SearchResults
from analysis.style import BEST, COLOURS, INK, MUTED, Picture, drawing, grid, message, styled
from analysis.text import duration, percent, plural

ENDINGS = {
    "complete": "trained all epochs",
    "asha": "stopped at a rung",
    "time_budget": "time budget over",
    "diverged": "diverged",
    "failed": "failed",
    "running": "still running",
    "infeasible": "infeasible",
}


def ending_of(trial: Any) -> str:
    """A key of ENDINGS for a row of the trials table."""
    by_state = {"COMPLETE": "complete", "FAIL": "failed", "RUNNING": "running"}
    if trial.state in by_state:
        return by_state[trial.state]
    return trial.stopped_by if trial.stopped_by in ENDINGS else "asha"


def pauses(started: list[pd.Timestamp], moments: pd.Series) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """(stop, resume) for each resume: from the last thing that happened before it. `moments` are UTC."""
    found = []
    for resume in sorted(started)[1:]:
        before = moments[moments < resume]
        if len(before):
            found.append((before.max(), resume))
    return found


def search_minutes(
    moments: pd.Series, start: pd.Timestamp, stops: list[tuple[pd.Timestamp, pd.Timestamp]]
) -> pd.Series:
    """Minutes of searching from `start` to each moment, pauses between a stop and its resume left out."""
    minutes = (moments - start).dt.total_seconds() / 60
    for stop, resume in stops:
        inside = moments.where(moments < resume, resume)
        minutes = minutes - ((inside - stop).dt.total_seconds() / 60).clip(lower=0)
    return minutes


def start_times(environment: list[dict[str, Any]]) -> list[pd.Timestamp]:
    """When the search was started and resumed (UTC); entries without a readable time are left out."""
    times = pd.to_datetime([str(entry.get("started_at")) for entry in environment], utc=True, errors="coerce")
    return [time for time in times if not pd.isna(time)]


def incumbent_data(trials: pd.DataFrame, environment: list[dict[str, Any]]) -> pd.DataFrame:
    """Finished trials with an accuracy, in the order they ended: number, minutes, val_accuracy, ending, best.

    `best` is the highest val_accuracy of COMPLETE trials so far, NaN before the first.
    """
    columns = ["number", "minutes", "val_accuracy", "ending", "best"]
    ended = trials[trials["finished_at"].notna() & trials["val_accuracy"].notna()].sort_values("finished_at")
    if ended.empty:
        return pd.DataFrame({name: pd.Series(dtype="object" if name == "ending" else "float64") for name in columns})
    moments = pd.concat([trials["started_at"], trials["finished_at"]]).dropna()
    stops = pauses(start_times(environment), moments)
    return pd.DataFrame(
        {
            "number": ended["number"],
            "minutes": search_minutes(ended["finished_at"], trials["started_at"].min(), stops),
            "val_accuracy": ended["val_accuracy"],
            "ending": [ending_of(trial) for trial in ended.itertuples()],
            "best": ended["val_accuracy"].where(ended["state"] == "COMPLETE").cummax().ffill(),
        }
    ).reset_index(drop=True)


def lowest_shown(data: pd.DataFrame) -> float:
    """Where the axis of val_accuracy begins: the best line and trial 0 lie above it, poorer trials may lie below."""
    kept = [data["best"].min(), data.loc[data["number"] == 0, "val_accuracy"].min()]
    known = [value for value in kept if not np.isnan(value)] or [data["val_accuracy"].median()]
    floor, top = float(min(known)), float(data["val_accuracy"].max())
    return max(0.0, floor - max(0.02, 0.6 * (top - floor)))


@styled
def plot_incumbent(data: pd.DataFrame) -> Figure:
    """Every trial where it ended, and the best COMPLETE one so far as a line; triangles lie below the axis."""
    figure = drawing()
    if data.empty:
        return message(figure, "no trial has ended with an accuracy yet")
    axes = figure.subplots()
    low = lowest_shown(data)
    for ending, group in data.groupby("ending"):
        is_below, colour = group["val_accuracy"] < low, COLOURS[str(ending)]
        axes.plot([], [], "o", markersize=5, color=colour, label=f"{ENDINGS[str(ending)]}: {len(group)}")
        for part, marker in ((group[~is_below], "o"), (group[is_below], "v")):
            heights = 100 * part["val_accuracy"].clip(lower=low)
            axes.scatter(part["minutes"], heights, s=24, marker=marker, color=colour, alpha=0.8, linewidths=0, zorder=3)
    _plot_best(axes, data)
    if (data["val_accuracy"] < low).any():
        axes.plot([], [], "v", markersize=5, color=MUTED, label="below the axis")
    axes.set(xlabel="search time (minutes)", ylabel="val accuracy (%)", xlim=(0, None))
    top = 100 * float(data["val_accuracy"].max())
    axes.set_ylim(100 * low - 0.04 * (top - 100 * low + 0.1), top + 0.08 * (top - 100 * low + 0.1))
    grid(axes)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _plot_best(axes: Any, data: pd.DataFrame) -> None:
    best = data[data["best"].notna()]
    if len(best):
        minutes = [*best["minutes"], data["minutes"].max()]
        values = [*(100 * best["best"]), 100 * best["best"].iloc[-1]]
        axes.step(minutes, values, where="post", color=BEST, linewidth=2, label="best so far", zorder=2)
    defaults = data[data["number"] == 0]
    if len(defaults):
        level = 100 * float(defaults["val_accuracy"].iloc[0])
        axes.axhline(level, color=MUTED, linestyle="--", linewidth=1, label="trial 0, the defaults", zorder=1)


def learning_curves_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """For each ending, a frame (number, epoch, val_accuracy) for each trial that trained."""
    curves: dict[str, list[pd.DataFrame]] = {}
    endings = {trial.number: ending_of(trial) for trial in trials.itertuples()}
    for number, curve in epochs.groupby("number"):
        if number in endings:
            part = curve[["number", "epoch", "val_accuracy"]].sort_values("epoch")
            curves.setdefault(endings[number], []).append(part)
    return {ending: curves[ending] for ending in ENDINGS if ending in curves}


@styled
def plot_learning_curves(data: dict[str, list[pd.DataFrame]], best: int | None = None) -> Figure:
    """val accuracy over epochs, one panel for each ending, all curves in grey behind it; the best trial is thick."""
    columns, rows = min(2, max(1, len(data))), -(-max(1, len(data)) // 2)
    figure = drawing(height=0.4 + 2.3 * rows)
    if not data:
        return message(figure, "no trial has finished an epoch yet")
    grids = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    everything = [curve for curves in data.values() for curve in curves]
    for axes in list(grids.flat)[len(data) :]:
        axes.set_axis_off()
    for axes, (ending, curves) in zip(grids.flat, data.items(), strict=False):
        for curve in everything:
            axes.plot(curve["epoch"], 100 * curve["val_accuracy"], color=MUTED, alpha=0.15, linewidth=0.7)
        for curve in curves:
            _plot_curve(axes, curve, COLOURS[ending], is_best=int(curve["number"].iloc[0]) == best)
        axes.set_title(f"{ENDINGS[ending]}: {len(curves)}", loc="left", fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid(axes)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("val accuracy (%)", fontsize=10)
    last = max(int(curve["epoch"].max()) for curve in everything)
    grids.flat[0].set_xlim(0.9, last + 0.1)
    return figure


def _plot_curve(axes: Any, curve: pd.DataFrame, colour: str, is_best: bool) -> None:
    accuracy = 100 * curve["val_accuracy"]
    if is_best:
        axes.plot(
            curve["epoch"], accuracy, color=INK, linewidth=2.2, zorder=4, label=f"trial {curve['number'].iloc[0]}"
        )
        axes.legend(loc="lower right")
        return
    marker = "o" if len(curve) == 1 else ""
    axes.plot(curve["epoch"], accuracy, color=colour, linewidth=1, alpha=0.8, zorder=3, marker=marker, markersize=3.5)


def incumbent_sentence(data: pd.DataFrame) -> str:
    best = data[data["best"].notna()]
    if best.empty:
        return "No trial is COMPLETE yet, so none can be called best."
    won = best[best["best"] == best["best"].iloc[-1]].iloc[0]
    rank, total = int(won.name) + 1, float(data["minutes"].max())
    return (
        f"The best val accuracy of a COMPLETE trial, {percent(won['best'])}, was reached by trial {int(won['number'])} "
        f"after {duration(60 * won['minutes'])} of {duration(60 * total)}, as number {rank} of {len(data)} to end."
    )


def curves_sentence(results: SearchResults) -> str:
    if results.epochs.empty:
        return "No trial has finished an epoch yet."
    endings = pd.Series({trial.number: ending_of(trial) for trial in results.trials.itertuples()})
    by_ending = results.epochs["number"].map(endings).value_counts()
    stopped = int((endings == "asha").sum())
    complete = int((endings == "complete").sum())
    text = f"{plural(complete, 'trial')} trained all {results.config.train.epochs} epochs"
    if stopped:
        share = by_ending.get("asha", 0) / len(results.epochs)
        text += f"; {stopped} stopped at a rung used {percent(share, 0)} of all epochs"
    diverged = int((endings == "diverged").sum())
    return text + (f"; {diverged} diverged." if diverged else ".")


def search_pictures(results: SearchResults) -> list[Picture]:
    """How the search went, for the report."""
    incumbent = incumbent_data(results.trials, results.environment)
    curves = learning_curves_data(results.trials, results.epochs)
    best = None if results.best_trial is None else results.best_trial.number
    return [
        Picture("incumbent", "Best val accuracy over time", plot_incumbent(incumbent), incumbent_sentence(incumbent)),
        Picture(
            "learning_curves",
            "Learning curves by ending",
            plot_learning_curves(curves, best),
            curves_sentence(results),
        ),
    ]
