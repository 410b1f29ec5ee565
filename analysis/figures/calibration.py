"""How far a network's confidence can be trusted."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluating.evaluation import EvaluatedTrial
from analysis.evaluating.metrics import calibration_data
from analysis.evaluating.statistics import Z_95, wilson_interval
from analysis.figures.style import BEST, MUTED, Picture, drawing, grid, legend, styled
from analysis.text import compact, percent


@styled
def plot_calibration(data: pd.DataFrame) -> Figure:
    """Accuracy over mean confidence for each bin of calibration_data with 95 % intervals; below, where images lie."""
    figure = drawing(height=4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    there = data[data["count"] > 0]
    accuracy = 100 * there["accuracy"]
    hits = (there["accuracy"] * there["count"]).round().astype(int)
    bounds = 100 * np.array([wilson_interval(*pair) for pair in zip(hits, there["count"], strict=True)]).T
    whiskers = np.array([accuracy - bounds[0], bounds[1] - accuracy]).clip(min=0)
    above.plot([0, 100], [0, 100], "--", color=MUTED, linewidth=1, label="perfectly calibrated")
    above.errorbar(
        100 * there["confidence"], accuracy, yerr=whiskers, fmt="o-", color=BEST, markersize=4.5, linewidth=1.4,
        elinewidth=1, capsize=2, label="images of a bin, with 95 % interval",
    )  # fmt: skip
    above.set(ylabel="accuracy (%)", ylim=(-2, 102))
    legend(figure, ncols=2)
    counts, centres = there["count"].tolist(), 50 * (there["low"] + there["high"])
    shares = 100 * there["count"] / sum(counts)
    below.bar(centres, shares, width=90 / len(data), color=BEST)
    for centre, share, count in zip(centres, shares, counts, strict=True):
        number = f"{count:,}" if count < 100_000 else compact(count)
        below.annotate(number, (centre, share), (0, 1.5), textcoords="offset points", ha="center", fontsize=7)
    below.set(xlabel="confidence (%)", ylabel="images (%)", xlim=(0, 102), ylim=(0, 1.25 * shares.max()))
    for axes in (above, below):
        grid(axes)
    return figure


def calibration_sentence(data: pd.DataFrame, error: float) -> str:
    n = int(data["count"].sum())
    parts = data[data["count"] > 0]
    confidence, accuracy = (float((parts["count"] * parts[name]).sum()) / n for name in ("confidence", "accuracy"))
    deviations = (parts["count"] * parts["deviation"]) / n
    if abs(confidence - accuracy) > Z_95 * float(np.sqrt((deviations**2).sum())):
        direction = "over" if confidence > accuracy else "under"
        found = f"the network is {direction}-confident by {100 * abs(confidence - accuracy):.2f} percentage points"
    else:
        found = "no over- or under-confidence on the whole that chance would not explain"
    # The mean of |X| for a normal X around 0.
    by_chance = float(np.sqrt(2 / np.pi) * deviations.sum())
    return (
        f"Mean confidence is {percent(confidence)}, accuracy {percent(accuracy)} (n = {n:,}): {found}. The expected "
        f"calibration error over {len(data)} bins is {percent(error)}; a perfectly calibrated network would show about "
        f"{percent(by_chance)} by chance."
    )


def picture(trial: EvaluatedTrial) -> Picture | None:
    if trial.predictions is None:
        return None
    data, error = calibration_data(trial.predictions.logits, trial.predictions.labels)
    return Picture("calibration", "Calibration", plot_calibration(data), calibration_sentence(data, error))
