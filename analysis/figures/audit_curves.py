"""Stopped trials that went on: their whole curves."""

from typing import Any

from matplotlib.figure import Figure

from analysis.figures.style import BEST, MANY, MUTED, ORANGE, WRONG, Picture, drawing, grid, legend, message, styled
from analysis.findings.audit import Audit
from analysis.findings.audit_report import stopping_sentence

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
    trials = finished.set_index("number")
    dot: dict[str, Any] = {"marker": "o", "markersize": 4, "markeredgewidth": 0}
    for number, curve in curves.sort_values("epoch").groupby("number"):
        stop = curve["epoch"] - trials["epoch"][number]
        colour, order, line = (WRONG, 4, full) if trials["above"][number] else (ORANGE, 3, thin)
        for part, shade, look in ((stop <= 0, MUTED, line), (stop >= 0, colour, line), (stop == 0, colour, dot)):
            values = 100 * curve.loc[part, "val_accuracy"]
            axes.plot(curve["epoch"][part], values, color=shade, zorder=order, rasterized=is_many, **look)
    axes.plot([], [], color=MUTED, linewidth=1.1, label="until it was stopped")
    above = int(finished["above"].sum())
    axes.plot([], [], "o-", color=ORANGE, markersize=4, linewidth=1.1,
              label=f"ends no higher: {len(finished) - above}")  # fmt: skip
    if above:
        axes.plot([], [], "o-", color=WRONG, markersize=4, linewidth=1.1, label=f"ends above the best: {above}")
    if audit.best is not None:
        axes.axhline(100 * audit.best[1], color=BEST, linestyle="--", linewidth=1.4, zorder=5,
                     label=f"best of the search, trial {audit.best[0]}")  # fmt: skip
    axes.set(xlabel="epoch", ylabel="val accuracy (%)", xlim=(0.9, audit.epochs + 0.1))
    grid(axes, whole_x=True)
    legend(figure, ncols=2)
    return figure


def picture(audit: Audit) -> Picture:
    return Picture("audit_curves", "Stopped trials that went on", plot_audit_curves(audit), stopping_sentence(audit))
