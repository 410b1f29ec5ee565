"""Which trial trained when, in as many slots as trained at a time, and how busy those were."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from analysis.figures.search_time import pauses, search_minutes, start_times
from analysis.figures.style import COLOURS, ENDINGS, INK, MANY, Picture, drawing, legend, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import duration, percent, plural

GAP_SEEN = 0.002  # of the width of the axis
OVERLAP = 0.05 / 60  # minutes that epochs of one slot may seem to overlap: their times are rounded


def slots_data(trials: pd.DataFrame, epochs: pd.DataFrame, environment: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each epoch whose times are known, by start: number, epoch, start, end, slot, ending.

    `start` and `end` are minutes from the start of the first epoch, pauses left out. Epochs are put into as many slots,
    counted from 0, as trained at a time; a trial stays in its slot if that is free.
    """
    ended = endings(trials.set_index("number"))
    known = epochs[epochs["number"].isin(ended.index) & epochs["epoch_seconds"].notna()].dropna(subset="finished_at")
    starts = known["finished_at"] - pd.to_timedelta(known["epoch_seconds"], unit="s")
    stops = pauses(start_times(environment), known["finished_at"])
    data = known[["number", "epoch"]].assign(
        start=search_minutes(starts, starts.min(), stops),
        end=search_minutes(known["finished_at"], starts.min(), stops),
        ending=known["number"].map(ended),
    )
    data = data.sort_values(["start", "number"], ignore_index=True)
    return data.assign(slot=_slots(data))


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
    which slots run out of trials, does not count. NaN if no slot has had a second trial.
    """
    first_starts = data.groupby("number")["start"].min()
    if data.empty or len(first_starts) <= data["slot"].nunique():
        return float("nan")
    end = first_starts.max()
    trained = (data["end"].clip(upper=end) - data["start"]).clip(lower=0).sum()
    return float(trained / (data["slot"].nunique() * end)) if end > 0 else float("nan")


def startup_seconds(epochs: pd.DataFrame, environment: list[dict[str, Any]]) -> float:
    """Seconds from the start of the search to that of its first epoch; NaN if one of them is unknown."""
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
    for ending, name in ENDINGS.items():
        group = bars[bars["ending"] == ending]
        if len(group):
            looks: dict[str, Any] = {"facecolors": COLOURS[ending], "linewidths": 0, "rasterized": len(bars) > MANY}
            axes.add_collection(PolyCollection(_corners(group), alpha=group["shade"].to_numpy(), **looks))
            label = f"{name}: {group['number'].nunique()}"
            axes.plot([], [], "s", markersize=6, color=COLOURS[ending], label=label)
    own = data[data["number"] == best].groupby("slot", as_index=False).agg({"start": "min", "end": "max"})
    if len(own):
        axes.add_collection(PolyCollection(_corners(own), facecolors="none", edgecolors=INK, linewidths=1.5))
        label = f"trial {best}, the best"
        axes.plot([], [], "s", markersize=6, markerfacecolor="none", color=INK, label=label)
    axes.set(xlim=(0, float(data["end"].max())), ylim=(rows + 0.6, 0.4))
    axes.set(xlabel="minutes since the first epoch began", ylabel="slot")
    axes.set_yticks(range(1, rows + 1, -(-rows // 8)))
    legend(figure, ncols=3)
    return figure


def _bars(data: pd.DataFrame) -> pd.DataFrame:
    """Epochs of a trial as one bar if no gap between them could be seen: number, ending, slot, shade, start, end."""
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


def picture(results: SearchResults) -> Picture:
    data = slots_data(results.trials, results.epochs, results.environment)
    sentence = slots_sentence(data, startup_seconds(results.epochs, results.environment))
    return Picture("cores", "Which trial trained when", plot_slots(data, results.best_number), sentence)
