"""Stopped trials that went on: their whole curves."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import BEST, COLOURS, MANY, MUTED, WRONG, Picture, drawing, grid, message, styled
from analysis.findings.audit import Audit
from analysis.findings.audit_report import stopping_sentence
from search.record.endings import Ending

CROWDED = 40  # curves drawn thinner


@styled
def plot_audit_curves(audit: Audit) -> Figure:
    """Audited trials: grey until they had been stopped, in colour from there on, and the level of the best trial."""
    curves = audit.curves[audit.curves["group"] == "stopped"]
    finished = audit.trials[audit.trials["number"].isin(curves["number"])]
    if curves.empty:
        return message(drawing(height=0.8), "no stopped trial has been trained to the end yet")
    figure = drawing(height=3.6)
    axes = figure.subplots()
    is_many = len(finished) > MANY
    full: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.8}
    thin = full if len(finished) <= CROWDED else {"linewidth": 0.7, "alpha": 0.4}
    stops = {trial["number"]: (trial["epoch"], bool(trial["above"])) for trial in finished.to_dict("records")}
    for number, curve in curves.sort_values("epoch").groupby("number"):
        stop, is_above = stops[int(str(number))]
        colour, order, line = (WRONG, 4, full) if is_above else (COLOURS[Ending.ASHA], 3, thin)
        before, after = curve[curve["epoch"] <= stop], curve[curve["epoch"] >= stop]
        axes.plot(before["epoch"], 100 * before["val_accuracy"], color=MUTED, zorder=order, rasterized=is_many, **line)
        axes.plot(after["epoch"], 100 * after["val_accuracy"], color=colour, zorder=order, rasterized=is_many, **line)
        at_stop = after[after["epoch"] == stop]
        axes.plot(at_stop["epoch"], 100 * at_stop["val_accuracy"], "o", color=colour, markersize=4, markeredgewidth=0,
                  zorder=order, rasterized=is_many)  # fmt: skip
    axes.plot([], [], color=MUTED, linewidth=1.1, label="until it was stopped")
    above = int(finished["above"].sum())
    axes.plot([], [], "o-", color=COLOURS[Ending.ASHA], markersize=4, linewidth=1.1,
              label=f"ends no higher: {len(finished) - above}")  # fmt: skip
    if above:
        axes.plot([], [], "o-", color=WRONG, markersize=4, linewidth=1.1, label=f"ends above the best: {above}")
    if audit.best is not None:
        axes.axhline(100 * audit.best[1], color=BEST, linestyle="--", linewidth=1.4, zorder=5,
                     label=f"best of the search, trial {audit.best[0]}")  # fmt: skip
    axes.set(xlabel="epoch", ylabel="val accuracy (%)", xlim=(0.9, audit.epochs + 0.1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid(axes)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def picture(audit: Audit) -> Picture:
    return Picture("audit_curves", "Stopped trials that went on", plot_audit_curves(audit), stopping_sentence(audit))
