"""How the best val accuracy came about: over time, and over the epochs of all trials."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.search_time import epoch_moments, pauses, search_minutes, start_times
from analysis.figures.style import BEST, COLOURS, ENDINGS, MUTED, Picture, dots, drawing, grid, legend, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import duration, percent, plural
from search.record.endings import Ending


def incumbent_data(
    trials: pd.DataFrame, environment: list[dict[str, Any]], epochs: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Finished trials with an accuracy, in the order they ended: number, minutes, epochs_before, val_accuracy, ending,
    best.

    `best` is the highest val_accuracy of COMPLETE trials so far, NaN before the first; `epochs_before` counts the
    epochs of all trials finished up to that trial's end, NaN without `epochs`.
    """
    ended = trials[trials["finished_at"].notna() & trials["val_accuracy"].notna()].sort_values("finished_at")
    if ended.empty:
        return pd.DataFrame(columns=["number", "minutes", "epochs_before", "val_accuracy", "ending", "best"])
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
            "ending": endings(ended),
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
    legend(figure, ncols=3)
    return figure


def _plot_ended(axes: Axes, data: pd.DataFrame, column: str, low: float) -> None:
    accuracy = 100 * data["val_accuracy"]
    for ending in sorted(data["ending"].unique()):
        own = data["ending"] == ending
        axes.plot([], [], "o", markersize=5, color=COLOURS[ending], label=f"{ENDINGS[ending]}: {own.sum()}")
        for part, marker in ((own & ~(accuracy < low), "o"), (own & (accuracy < low), "v")):
            look: dict[str, Any] = {"marker": marker, "color": COLOURS[ending], "alpha": 0.8}
            dots(axes, data.loc[part, column], accuracy[part].clip(lower=low), len(data), s=24, **look)
    if (accuracy < low).any():
        axes.plot([], [], "v", markersize=5, color=MUTED, label="below the axis")


def _plot_best(axes: Axes, data: pd.DataFrame, column: str) -> None:
    best = data[data["best"].notna()]
    if len(best):
        places = [*best[column], data[column].max()]
        values = [*(100 * best["best"]), 100 * best["best"].iloc[-1]]
        axes.step(places, values, where="post", color=BEST, linewidth=2, label="best so far", zorder=2)
    defaults = data[(data["number"] == 0) & (data["ending"] == Ending.COMPLETE)]
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


def picture(results: SearchResults) -> Picture:
    data = incumbent_data(results.trials, results.environment, results.epochs)
    title = "Best val accuracy over time and epochs"
    return Picture("incumbent", title, plot_incumbent(data), incumbent_sentence(data))
