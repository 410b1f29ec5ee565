"""How early the order of the end is there."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import BEST, MUTED, ORANGE, Picture, drawing, grid, legend, message, styled
from analysis.findings.audit import FEWEST_FOR_RHO, Audit
from analysis.findings.audit_report import rank_correlation_sentence

BARS = 20  # epochs with an interval each; more become a band


@styled
def plot_rank_correlation(data: pd.DataFrame, rungs: list[int]) -> Figure:
    """rank_correlation_data: rho over epochs with 95 % intervals for both groups, rungs as dotted lines."""
    if data.empty:
        return message(drawing(height=0.8), f"a rank correlation needs {FEWEST_FOR_RHO} whole curves of audited trials")
    figure = drawing(height=3.2)
    axes = figure.subplots()
    labels = {"stopped": "audited trials", "all": "all trials, weighted"}
    last = int(data["epoch"].max())
    for group, colour, shift in (("stopped", ORANGE, -0.06), ("all", BEST, 0.06)):
        part = data[data["group"] == group]
        if part.empty:
            continue
        label = f"{labels[group]}, n = {part['n'].iloc[0]}"
        if last > BARS:
            axes.plot(part["epoch"], part["rho"], color=colour, linewidth=1.4, label=label, zorder=3)
            axes.fill_between(part["epoch"], part["low"], part["high"], color=colour, alpha=0.18, linewidth=0, zorder=2)
            continue
        epochs = part["epoch"] + shift
        axes.plot(epochs, part["rho"], "o-", color=colour, markersize=4, linewidth=1.4, label=label, zorder=3)
        axes.vlines(epochs, part["low"], part["high"], color=colour, linewidth=1.1, alpha=0.7, zorder=2)
    for rung in rungs:
        axes.axvline(rung, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
    if rungs:
        axes.plot([], [], ":", color=MUTED, linewidth=1.2, label="rung")
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axes.set(xlabel="epoch", ylabel="rank correlation with the end", xlim=(0.5, last + 0.5))
    axes.set_ylim(max(-1.02, min(-0.05, float(data["low"].min()) - 0.05)), 1.02)
    grid(axes, whole_x=True)
    legend(figure, ncols=3)
    return figure


def picture(audit: Audit) -> Picture:
    title, figure = "How early the order of the end is there", plot_rank_correlation(audit.correlations, audit.rungs)
    return Picture("rank_correlation", title, figure, rank_correlation_sentence(audit.correlations, audit.rungs))
