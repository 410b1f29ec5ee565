"""Pictures of a search: how the best val accuracy came about, whom the rungs stopped, how busy the slots were, learning
curves by how trials ended, and which proposals were infeasible.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import BEST, COLOURS, INK, MUTED, Picture, drawing, grid, message, styled
from analysis.reading.results import SearchResults
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
OUTCOMES = {"stopped": COLOURS["asha"], "went on": COLOURS["complete"], "no verdict": MUTED}  # at a rung
MANY = 300  # marks from which on they become pixels in an SVG
REASONS_SHOWN = 6
GAP_SEEN = 0.002  # of the width of the axis
OVERLAP = 0.05 / 60  # minutes that epochs of one slot may seem to overlap: their times are rounded


def ending_of(trial: Any) -> str:
    """A key of ENDINGS for a row of the trials table."""
    by_state = {"COMPLETE": "complete", "FAIL": "failed", "RUNNING": "running"}
    if trial.state in by_state:
        return by_state[trial.state]
    return trial.stopped_by if trial.stopped_by in ENDINGS else "asha"


def pauses(started: list[pd.Timestamp], moments: pd.Series) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """(stop, resume) for each resume: from the last thing that happened before it. `moments` are UTC.

    Of resumes with nothing between them the last counts.
    """
    found: dict[pd.Timestamp, pd.Timestamp] = {}
    for resume in sorted(started)[1:]:
        before = moments[moments < resume]
        if len(before):
            found[before.max()] = resume
    return list(found.items())


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


def incumbent_data(
    trials: pd.DataFrame, environment: list[dict[str, Any]], epochs: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Finished trials with an accuracy, in the order they ended: number, minutes, epochs_before, val_accuracy, ending,
    best.

    `best` is the highest val_accuracy of COMPLETE trials so far, NaN before the first; `epochs_before` counts the
    epochs of all trials finished up to that trial's end, NaN without `epochs`.
    """
    columns = ["number", "minutes", "epochs_before", "val_accuracy", "ending", "best"]
    ended = trials[trials["finished_at"].notna() & trials["val_accuracy"].notna()].sort_values("finished_at")
    if ended.empty:
        return pd.DataFrame({name: pd.Series(dtype="object" if name == "ending" else "float64") for name in columns})
    trained = pd.Series(dtype=trials["finished_at"].dtype) if epochs is None else epoch_moments(trials, epochs)
    moments = pd.concat([trials["started_at"], trials["finished_at"], trained]).dropna()
    stops = pauses(start_times(environment), moments)
    counts = np.searchsorted(np.sort(trained.to_numpy()), ended["finished_at"].to_numpy(), side="right")
    return pd.DataFrame(
        {
            "number": ended["number"],
            "minutes": search_minutes(ended["finished_at"], trials["started_at"].min(), stops),
            "epochs_before": np.nan if epochs is None else counts.astype("float64"),
            "val_accuracy": ended["val_accuracy"],
            "ending": [ending_of(trial) for trial in ended.itertuples()],
            "best": ended["val_accuracy"].where(ended["state"] == "COMPLETE").cummax().ffill(),
        }
    ).reset_index(drop=True)


def epoch_moments(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.Series:
    """When each epoch finished (UTC), at the latest when its trial did; epochs without either are left out."""
    ends = epochs["number"].map(trials.set_index("number")["finished_at"])
    known = epochs["finished_at"].fillna(ends)
    return known.where(ends.isna() | (known <= ends), ends).dropna()


def lowest_shown(data: pd.DataFrame) -> float:
    """Where the axis of val_accuracy begins: the best line and trial 0 lie above it, poorer trials may lie below."""
    kept = [data["best"].min(), data.loc[data["number"] == 0, "val_accuracy"].min()]
    known = [value for value in kept if not np.isnan(value)] or [data["val_accuracy"].median()]
    floor, top = float(min(known)), float(data["val_accuracy"].max())
    return max(0.0, floor - max(0.02, 0.6 * (top - floor)))


@styled
def plot_incumbent(data: pd.DataFrame) -> Figure:
    """Every trial where it ended, and the best COMPLETE one so far as a line, over time and over epochs trained;
    triangles lie below the axis.
    """
    figure = drawing(height=3.6)
    if data.empty:
        return message(figure, "no trial has ended with an accuracy yet")
    scales = {"minutes": "search time (minutes)", "epochs_before": "epochs trained by all trials"}
    shown = [column for column in scales if data[column].notna().any()]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    low, top = 100 * lowest_shown(data), 100 * float(data["val_accuracy"].max())
    for axes, column in zip(panels, shown, strict=True):
        _plot_ended(axes, data, column, low)
        _plot_best(axes, data, column)
        axes.set(xlabel=scales[column], xlim=(0, None))
        axes.set_ylim(low - 0.04 * (top - low + 0.1), top + 0.08 * (top - low + 0.1))
        grid(axes)
    panels[0].set_ylabel("val accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _plot_ended(axes: Any, data: pd.DataFrame, column: str, low: float) -> None:
    for ending, group in data.groupby("ending"):
        colour, is_below = COLOURS[str(ending)], 100 * group["val_accuracy"] < low
        axes.plot([], [], "o", markersize=5, color=colour, label=f"{ENDINGS[str(ending)]}: {len(group)}")
        for part, marker in ((group[~is_below], "o"), (group[is_below], "v")):
            heights = (100 * part["val_accuracy"]).clip(lower=low)
            axes.scatter(
                part[column], heights, s=24, marker=marker, color=colour, alpha=0.8, linewidths=0, zorder=3,
                rasterized=len(data) > MANY,
            )  # fmt: skip
    if (100 * data["val_accuracy"] < low).any():
        axes.plot([], [], "v", markersize=5, color=MUTED, label="below the axis")


def _plot_best(axes: Any, data: pd.DataFrame, column: str) -> None:
    best = data[data["best"].notna()]
    if len(best):
        places = [*best[column], data[column].max()]
        values = [*(100 * best["best"]), 100 * best["best"].iloc[-1]]
        axes.step(places, values, where="post", color=BEST, linewidth=2, label="best so far", zorder=2)
    defaults = data[(data["number"] == 0) & (data["ending"] == "complete")]
    if len(defaults):
        level = 100 * float(defaults["val_accuracy"].iloc[0])
        axes.axhline(level, color=MUTED, linestyle="--", linewidth=1, label="trial 0, the defaults", zorder=1)


def incumbent_sentence(data: pd.DataFrame) -> str:
    best = data[data["best"].notna()]
    if best.empty:
        return "No trial is COMPLETE yet, so none can be called best."
    won, last = best[best["best"] == best["best"].iloc[-1]].iloc[0], data.iloc[-1]
    rank = int(won.name) + 1
    after = [duration(60 * won["minutes"])]
    since = [duration(60 * (last["minutes"] - won["minutes"]))]
    if not np.isnan(won["epochs_before"]):
        after.append(plural(int(won["epochs_before"]), "epoch"))
        since.append(plural(int(last["epochs_before"] - won["epochs_before"]), "epoch"))
    text = (
        f"The best val accuracy of a COMPLETE trial, {percent(won['best'])}, was reached by trial {int(won['number'])} "
        f"after {' and '.join(after)}, as number {rank} of {len(data)} to end"
    )
    if rank == len(data):
        return text + "."
    return f"{text}; nothing better came in the {' and '.join(since)} after it."


def asha_rungs(scheduler: Mapping[str, Any], train_epochs: int) -> list[int]:
    """The rung_epochs of a search's scheduler section; none without ASHA."""
    if scheduler.get("name") != "asha" or not {"grace_epochs", "reduction_factor"} <= scheduler.keys():
        return []
    return rung_epochs(scheduler["grace_epochs"], scheduler["reduction_factor"], train_epochs)


def rung_epochs(grace_epochs: int, reduction_factor: float, train_epochs: int) -> list[int]:
    """The epochs below `train_epochs` after which ASHA judges a trial, ascending.

    Rungs lie at grace_epochs * reduction_factor**k. Of rungs that a trial has reached it is judged at one after each
    epoch, so that rungs less than an epoch apart are made up for later.
    """
    grace, factor = grace_epochs, reduction_factor
    rungs = [grace * factor**k for k in range(int(np.log(train_epochs / grace) / np.log(factor) + 1))]
    judged: list[int] = []
    for epoch in range(1, train_epochs):
        if sum(rung <= epoch for rung in rungs) > len(judged):
            judged.append(epoch)
    return judged


def judged_data(trials: pd.DataFrame, epochs: pd.DataFrame, rungs: list[int], reduction_factor: float) -> pd.DataFrame:
    """A row for each trial at each rung that it reached, in the order they did: rung, number, val_accuracy, outcome,
    cutoff.

    `val_accuracy` is that after the rung's epoch, whatever came later. `outcome` is a key of OUTCOMES: no verdict
    where the trial is still there or ended otherwise. `cutoff` is the 1 - 1/reduction_factor quantile of those before,
    below which ASHA stops a trial; NaN for the first.
    """
    endings = {trial.number: ending_of(trial) for trial in trials.itertuples()}
    lasts = epochs.groupby("number")["epoch"].max()
    known = epochs[epochs["number"].isin(list(endings)) & epochs["val_accuracy"].notna()]
    frames = []
    for rung in rungs:
        there = known[known["epoch"] == rung].sort_values(["finished_at", "number"])
        went_on = there["number"].map(lasts) > rung
        stopped = ~went_on & (there["number"].map(endings) == "asha")
        values = there["val_accuracy"].to_numpy()
        before = [np.percentile(values[:index], 100 * (1 - 1 / reduction_factor)) for index in range(1, len(values))]
        frames.append(
            pd.DataFrame(
                {
                    "rung": rung,
                    "number": there["number"],
                    "val_accuracy": values,
                    "outcome": np.select([went_on, stopped], ["went on", "stopped"], "no verdict"),
                    "cutoff": np.array([np.nan, *before])[: len(values)],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def rungs_data(judged: pd.DataFrame) -> pd.DataFrame:
    """From judged_data, a row for each rung that was reached: rung, reached, stopped, went_on, best_stopped,
    worst_went_on (val accuracies, NaN where there is none).
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
    """Counts under each rung where there is room, else every so many epochs."""
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


def slots_data(trials: pd.DataFrame, epochs: pd.DataFrame, environment: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each epoch whose times are known, by start: number, epoch, start, end, slot, ending.

    `start` and `end` are minutes from the start of the first epoch, pauses left out. Epochs are put into as many slots,
    counted from 0, as trained at a time; a trial stays in its slot where that is free.
    """
    endings = {trial.number: ending_of(trial) for trial in trials.itertuples()}
    usable = epochs["number"].isin(list(endings)) & epochs["finished_at"].notna() & epochs["epoch_seconds"].notna()
    known = epochs[usable]
    starts = known["finished_at"] - pd.to_timedelta(known["epoch_seconds"], unit="s")
    stops = pauses(start_times(environment), known["finished_at"])
    data = pd.DataFrame(
        {
            "number": known["number"],
            "epoch": known["epoch"],
            "start": search_minutes(starts, starts.min(), stops),
            "end": search_minutes(known["finished_at"], starts.min(), stops),
            "ending": known["number"].map(endings),
        }
    ).sort_values(["start", "number"], ignore_index=True)
    data.insert(4, "slot", _slots(data))
    return data


def _slots(data: pd.DataFrame) -> list[int]:
    """A slot for each interval by start: its trial's, else one whose trial has ended, else any that is free."""
    is_last = data["epoch"] == data.groupby("number")["epoch"].transform("max")
    held: list[tuple[float, int, bool]] = []  # for each slot: end, trial, whether that was its last epoch
    slots = []
    for number, start, end, last in zip(data["number"], data["start"], data["end"], is_last, strict=True):
        free = [slot for slot, (busy_until, _, _) in enumerate(held) if busy_until <= start + OVERLAP]
        ranked = [(held[slot][1] != number, not held[slot][2], slot) for slot in free]
        slot = min(ranked)[2] if ranked else len(held)
        held[slot : slot + 1] = [(end, number, last)]
        slots.append(slot)
    return slots


def busy_share(data: pd.DataFrame) -> float:
    """Share of the slots' time that trained, from the first epoch's start to the last trial's, so that the tail, in
    which slots run out of trials, does not count. NaN where no slot has had a second trial.
    """
    first_starts = data.groupby("number")["start"].min()
    if data.empty or len(first_starts) <= data["slot"].nunique():
        return float("nan")
    end = first_starts.max()
    trained = (data["end"].clip(upper=end) - data["start"]).clip(lower=0).sum()
    return float(trained / (data["slot"].nunique() * end)) if end > 0 else float("nan")


def startup_seconds(epochs: pd.DataFrame, environment: list[dict[str, Any]]) -> float:
    """Seconds from the start of the search to that of its first epoch; NaN where one of them is unknown."""
    first = (epochs["finished_at"] - pd.to_timedelta(epochs["epoch_seconds"], unit="s")).min()
    before = [time for time in start_times(environment) if time <= first]
    return (first - max(before)).total_seconds() if before else float("nan")


@styled
def plot_slots(data: pd.DataFrame, best: int | None = None) -> Figure:
    """Which trial trained when: a row for each slot, neighbouring trials in two shades, the best trial outlined."""
    rows = 1 if data.empty else int(data["slot"].max()) + 1
    figure = drawing(height=min(5.0, 1.3 + 0.35 * rows))
    if data.empty:
        return message(figure, "no epoch has finished yet")
    axes = figure.subplots()
    bars = _bars(data)
    for ending in ENDINGS:
        group = bars[bars["ending"] == ending]
        if len(group):
            looks: dict[str, Any] = {"facecolors": COLOURS[ending], "linewidths": 0, "rasterized": len(bars) > MANY}
            axes.add_collection(PolyCollection(_corners(group), alpha=group["shade"].to_numpy(), **looks))
            label = f"{ENDINGS[ending]}: {group['number'].nunique()}"
            axes.plot([], [], "s", markersize=6, color=COLOURS[ending], label=label)
    own = data[data["number"] == best].groupby("slot", as_index=False).agg({"start": "min", "end": "max"})
    if len(own):
        outline: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.5}
        axes.add_collection(PolyCollection(_corners(own), **outline))
        label = f"trial {best}, the best"
        axes.plot([], [], "s", markersize=6, markerfacecolor="none", color=INK, label=label)
    axes.set(xlim=(0, float(data["end"].max())), ylim=(rows + 0.6, 0.4), ylabel="slot")
    axes.set_xlabel("minutes since the first epoch began")
    axes.set_yticks(range(1, rows + 1, -(-rows // 8)))
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _bars(data: pd.DataFrame) -> pd.DataFrame:
    """Epochs of a trial as one bar where no gap between them could be seen: number, ending, slot, shade, start, end."""
    ordered = data.sort_values(["slot", "start"])
    before = ordered.groupby("slot")[["number", "end"]].shift()
    is_new = ordered["number"] != before["number"]
    begins = is_new | (ordered["start"] - before["end"] > GAP_SEEN * ordered["end"].max())
    shade = (is_new.groupby(ordered["slot"]).cumsum() % 2).map({1: 1.0, 0: 0.6})
    runs = ordered.assign(shade=shade).groupby(begins.cumsum())
    columns = ["number", "ending", "slot", "shade"]
    return runs.agg({**dict.fromkeys(columns, "first"), "start": "min", "end": "max"})


def _corners(bars: pd.DataFrame) -> Any:
    """Corners of the bars, (n, 4, 2)."""
    left, right = bars["start"].to_numpy(), bars["end"].to_numpy()
    top, bottom = bars["slot"].to_numpy() + 0.6, bars["slot"].to_numpy() + 1.4
    return np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)


def slots_sentence(data: pd.DataFrame, startup: float) -> str:
    if data.empty:
        return "No epoch has finished yet."
    slots, share, trials = data["slot"].nunique(), busy_share(data), data["number"].nunique()
    counts = f"{plural(trials, 'trial')}, {plural(len(data), 'epoch')}"
    if np.isnan(share):
        text = f"How busy the slots were cannot be said yet: there were no more trials than slots ({counts})."
    else:
        minutes = data.groupby("number")["start"].min().max()
        text = (
            f"Up to {plural(slots, 'trial')} trained at a time. Of the {duration(60 * minutes)} from the first epoch's "
            f"start to the last trial's, their slots spent {percent(share, 1)} training ({counts})."
        )
    if np.isnan(startup):
        return text
    return f"{text} The first epoch began {duration(startup)} after the search was started."


def learning_curves_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """For each ending, a frame (number, epoch, val_accuracy) for each trial that trained."""
    curves: dict[str, list[pd.DataFrame]] = {}
    endings = {trial.number: ending_of(trial) for trial in trials.itertuples()}
    ordered = epochs[["number", "epoch", "val_accuracy"]].sort_values(["number", "epoch"])
    for number, curve in ordered.groupby("number"):
        if number in endings:
            curves.setdefault(endings[number], []).append(curve)
    return {ending: curves[ending] for ending in ENDINGS if ending in curves}


@styled
def plot_learning_curves(data: dict[str, list[pd.DataFrame]], best: int | None = None) -> Figure:
    """val accuracy over epochs, one panel for each ending, all curves in grey behind it; the best trial is thick."""
    columns, rows = min(2, max(1, len(data))), -(-max(1, len(data)) // 2)
    figure = drawing(height=0.4 + 2.3 * rows)
    if not data:
        return message(figure, "no trial has finished an epoch yet")
    grids = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    lines = {ending: [_line(curve) for curve in curves] for ending, curves in data.items()}
    everything = [line for group in lines.values() for line in group]
    is_many = len(everything) > MANY
    for axes in list(grids.flat)[len(data) :]:
        axes.set_axis_off()
    for axes, (ending, curves) in zip(grids.flat, data.items(), strict=False):
        grey: dict[str, Any] = {"colors": MUTED, "alpha": 0.15, "linewidths": 0.7, "zorder": 1}
        axes.add_collection(LineCollection(everything, rasterized=is_many, **grey))
        colour, alpha = COLOURS[ending], 0.8 if len(curves) < 100 else 0.4
        axes.add_collection(
            LineCollection(lines[ending], colors=colour, alpha=alpha, linewidths=1, rasterized=is_many, zorder=3)
        )
        single = np.array([line[0] for line in lines[ending] if len(line) == 1]).reshape(-1, 2)
        if len(single):
            axes.scatter(*single.T, s=12, color=colour, alpha=alpha, linewidths=0, rasterized=is_many, zorder=3)
        for curve, line in zip(curves, lines[ending], strict=True):
            if curve["number"].iloc[0] == best:
                axes.plot(*line.T, color=INK, linewidth=2.2, zorder=4, label=f"trial {best}")
                axes.legend(loc="lower right")
        axes.set_title(f"{ENDINGS[ending]}: {len(curves)}", loc="left", fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid(axes)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("val accuracy (%)", fontsize=10)
    grids.flat[0].set_xlim(0.9, max(line[-1, 0] for line in everything) + 0.1)
    return figure


def _line(curve: pd.DataFrame) -> np.ndarray:
    """Points (epoch, val accuracy in %), (epochs, 2)."""
    return np.column_stack([curve["epoch"], 100 * curve["val_accuracy"]])


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


def reasons_data(reasons: pd.Series) -> pd.DataFrame:
    """Reasons that differ only in their numbers, counted together, the commonest first: kind, count, example.

    `kind` has # for numbers, `example` is the first reason of its kind.
    """
    lines = [one_line(reason) if isinstance(reason, str) else "" for reason in reasons]
    examples = [line or "no reason recorded" for line in lines]
    kinds = [re.sub(r"\d[\d,]*", "#", example) for example in examples]
    groups = pd.DataFrame({"kind": kinds, "example": examples}).groupby("kind", sort=False)["example"]
    table = groups.agg(count="size", example="first").reset_index()
    return table.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def one_line(text: str) -> str:
    """Without what cannot be printed, and one space between words."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def shortened(line: str, limit: int) -> str:
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


@styled
def plot_reasons(data: pd.DataFrame, proposals: int) -> Figure:
    """Of all `proposals`, how many each kind of reason made infeasible; an example of it stands above its bar."""
    shown, rest = data.head(REASONS_SHOWN), data.iloc[REASONS_SHOWN:]
    bars = list(zip((shortened(example, 105) for example in shown["example"]), shown["count"], strict=True))
    if len(rest):
        bars.append((f"{plural(len(rest), 'other kind')} of reason", rest["count"].sum()))
    figure = drawing(height=0.9 + 0.45 * len(bars))
    if not bars:
        return message(figure, "no proposal was infeasible")
    axes = figure.subplots()
    axes.barh(range(len(bars)), [count for _, count in bars], height=0.4, color=COLOURS["infeasible"])
    for place, (label, count) in enumerate(bars):
        options: dict[str, Any] = {"fontsize": 8.5, "clip_on": True, "in_layout": False}
        axes.text(0, place - 0.28, label, va="bottom", **options)
        axes.annotate(f"{count:,}", (count, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set(xlim=(0, 1.12 * max(count for _, count in bars)), ylim=(len(bars) - 0.6, -0.8), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines["left"].set_visible(False)
    total = int(data["count"].sum())
    axes.set_xlabel(f"infeasible proposals ({total:,} of {proposals:,}, {percent(total / proposals, 1)})")
    return figure


def commonest(reasons: pd.Series) -> str:
    first = reasons_data(reasons).iloc[0]
    return f"most often for a reason like “{shortened(first['example'], 160)}” (n = {first['count']:,})"


def reasons_sentence(trials: pd.DataFrame) -> str:
    """Of proposals that were infeasible."""
    infeasible = (trials.sort_values("number")["stopped_by"] == "infeasible").to_numpy()
    if not infeasible.any():
        return "No proposal was infeasible."
    reasons = trials.loc[trials["stopped_by"] == "infeasible", "reason"]
    text = (
        f"Infeasible and never trained: {infeasible.sum():,} of {plural(len(trials), 'proposal')} "
        f"({percent(infeasible.mean(), 1)}), {commonest(reasons)}."
    )
    if len(infeasible) < 20:
        return text
    early, late = (percent(half.mean(), 1) for half in np.array_split(infeasible, 2))
    return f"{text} Of the first half of the proposals it was {early}, of the second {late}."


def failures_sentence(trials: pd.DataFrame) -> str:
    """How many trials crashed, and the commonest reason; empty where none did."""
    failed = trials[trials["state"] == "FAIL"]
    if failed.empty:
        return ""
    return f"{plural(len(failed), 'trial')} failed, {commonest(failed['reason'])}."


def search_pictures(results: SearchResults) -> list[Picture]:
    """How the search went, for the report: rungs only where ASHA has some, reasons only of infeasible proposals."""
    trials, epochs, environment = results.trials, results.epochs, results.environment
    best = None if results.best_trial is None else results.best_trial.number
    incumbent = incumbent_data(trials, environment, epochs)
    figure = plot_incumbent(incumbent)
    pictures = [Picture("incumbent", "Best val accuracy over time and epochs", figure, incumbent_sentence(incumbent))]

    scheduler = results.settings.get("scheduler") or {}
    rungs = asha_rungs(scheduler, results.config.train.epochs)
    if rungs:
        judged = judged_data(trials, epochs, rungs, scheduler["reduction_factor"])
        figure = plot_rungs(judged, best)
        pictures.append(Picture("rungs", "Who was stopped at the rungs", figure, rungs_sentence(judged, best)))

    slots = slots_data(trials, epochs, environment)
    sentence = slots_sentence(slots, startup_seconds(epochs, environment))
    pictures.append(Picture("cores", "Which trial trained when", plot_slots(slots, best), sentence))

    curves = learning_curves_data(trials, epochs)
    sentence = f"{curves_sentence(results)} {failures_sentence(trials)}".strip()
    figure = plot_learning_curves(curves, best)
    pictures.append(Picture("learning_curves", "Learning curves by ending", figure, sentence))

    infeasible = reasons_data(trials.loc[trials["stopped_by"] == "infeasible", "reason"])
    if len(infeasible):
        figure = plot_reasons(infeasible, len(trials))
        pictures.append(Picture("infeasible", "Proposals that were infeasible", figure, reasons_sentence(trials)))
    return pictures
