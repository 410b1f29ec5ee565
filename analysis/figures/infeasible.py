"""Which proposals were infeasible, and why."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import GREY, Picture, drawing, message, styled
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import fitted, on_one_line, percent, plural
from search.record.endings import Ending, Infeasible

REASONS_SHOWN = 6
UNKNOWN = "kind not recorded"  # by versions that wrote words only


def reasons_data(trials: pd.DataFrame, infeasible: Mapping[int, Infeasible]) -> pd.DataFrame:
    """Infeasible proposals by kind, the commonest first: kind, count, example.

    `infeasible` says by trial number why; trials without an entry are UNKNOWN, and each text is counted on its own.
    """
    own = trials.loc[endings(trials) == Ending.INFEASIBLE, ["number", "reason"]]
    kinds = [infeasible[number].kind_in_words if number in infeasible else UNKNOWN for number in own["number"]]
    table = own.assign(kind=kinds, example=own["reason"].map(on_one_line).replace("", "no reason recorded"))
    table["text"] = table["example"].where(table["kind"] == UNKNOWN, "")
    groups = table.groupby(["kind", "text"], sort=False)
    counts = groups.agg(count=("example", "size"), example=("example", "first")).reset_index()
    counts = counts.sort_values("count", ascending=False, kind="stable", ignore_index=True)
    return counts[["kind", "count", "example"]]


def reason_text(row: Mapping[Any, Any] | pd.Series) -> str:
    """A row of reasons_data in words: its kind, unless the example begins with it, and the example."""
    kind, example = row["kind"], row["example"]
    return str(example if kind == UNKNOWN or example.startswith(kind) else f"{kind}: {example}")


@styled
def plot_reasons(data: pd.DataFrame, proposals: int) -> Figure:
    """Of all `proposals`, how many were infeasible of each kind; an example of it stands above its bar."""
    shown, rest = data.head(REASONS_SHOWN), data.iloc[REASONS_SHOWN:]
    bars = [(fitted(reason_text(row), 105), row["count"]) for _, row in shown.iterrows()]
    if len(rest):
        bars.append((plural(len(rest), "other reason"), rest["count"].sum()))
    figure = drawing(height=0.9 + 0.45 * len(bars))
    if not bars:
        return message(figure, "no proposal was infeasible")
    axes = figure.subplots()
    axes.barh(range(len(bars)), [count for _, count in bars], height=0.4, color=GREY)
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


def reasons_sentence(data: pd.DataFrame, trials: pd.DataFrame) -> str:
    """`data` are the reasons_data of all trials."""
    if data.empty:
        return "No proposal was infeasible."
    is_infeasible = (endings(trials.sort_values("number")) == Ending.INFEASIBLE).to_numpy()
    text = (
        f"Infeasible and never trained: {is_infeasible.sum():,} of {plural(len(trials), 'proposal')} "
        f"({percent(is_infeasible.mean(), 1)}), most often for a reason like "
        f"“{fitted(reason_text(data.iloc[0]), 160)}” (n = {data['count'].iloc[0]:,})."
    )
    if len(is_infeasible) < 20:
        return text
    early, late = (percent(half.mean(), 1) for half in np.array_split(is_infeasible, 2))
    return f"{text} Of the first half of the proposals it was {early}, of the second {late}."


def picture(results: SearchResults) -> Picture | None:
    data = reasons_data(results.trials, results.infeasible)
    if data.empty:
        return None
    figure = plot_reasons(data, len(results.trials))
    return Picture("infeasible", "Proposals that were infeasible", figure, reasons_sentence(data, results.trials))
