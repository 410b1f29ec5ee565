"""How well each class is recognised."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluating.evaluation import EvaluatedTrial
from analysis.evaluating.statistics import wilson_interval
from analysis.figures.style import BEST, INK, MUTED, ORANGE, Picture, drawing, grid, legend, styled
from analysis.text import fitted, percent

CLASSES_WITH_BARS = 20  # of more classes only the worst and the best half of so many


def per_class_data(per_class: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Classes with test images, lowest recall first: class, recall, low, high (95 % interval of it), precision.

    Of more than 20 classes the 10 worst and the 10 best; `rank` counts all of them from 1.
    """
    there = pd.DataFrame([row for row in per_class if row["support"]])
    hits = (there["recall"] * there["support"]).round().astype(int)
    there[["low", "high"]] = [wilson_interval(*pair) for pair in zip(hits, there["support"], strict=True)]
    frame = there[["class", "recall", "low", "high", "precision"]]
    frame = frame.sort_values(["recall", "precision"], kind="stable", ignore_index=True)
    rank, half = frame.index + 1, CLASSES_WITH_BARS // 2
    return frame.assign(rank=rank)[(rank <= half) | (rank > len(frame) - half)].reset_index(drop=True)


@styled
def plot_per_class(data: pd.DataFrame) -> Figure:
    """Recall with its 95 % interval and precision as bars, the worst class on top; a gap if classes are left out."""
    figure = drawing(height=0.9 + 0.31 * (len(data) + 1))
    axes = figure.subplots()
    gap = data["rank"].diff().gt(1).cumsum()  # 0 above the classes left out, 1 below
    rows = np.arange(len(data)) + gap.to_numpy()
    recall, precision = 100 * data["recall"], 100 * data["precision"]
    # Rounding must not leave a whisker of negative length.
    whiskers = np.array([recall - 100 * data["low"], 100 * data["high"] - recall]).clip(min=0)
    axes.barh(rows - 0.19, recall, height=0.36, color=BEST, label="recall, with its 95 % interval")
    axes.errorbar(recall, rows - 0.19, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.barh(rows + 0.19, precision, height=0.36, color=ORANGE, label="precision")
    if gap.any():
        left_out = int(data["rank"].diff().max()) - 1
        row = float(rows[gap.to_numpy() == 1][0]) - 1
        axes.text(1, row, f"{left_out} classes between", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(rows, [fitted(name) for name in data["class"]], fontsize=9)
    axes.set(xlabel="share of images (%)", xlim=(0, 102), ylim=(rows.max() + 0.6, -0.6))
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    legend(figure, ncols=2)
    return figure


def per_class_sentence(metrics: dict[str, Any]) -> str:
    there = [row for row in metrics["per_class"] if row["support"]]
    worst, best = (pick(there, key=lambda row: row["recall"]) for pick in (min, max))
    if worst["recall"] == best["recall"]:
        return f"Recall is {percent(worst['recall'], 1)} for every class."
    return (
        f"Recall is lowest for {worst['class']}, {percent(worst['recall'], 1)}, and highest for {best['class']}, "
        f"{percent(best['recall'], 1)}; its mean, the balanced accuracy, is {percent(metrics['balanced_accuracy'])}."
    )


def left_out_sentence(data: pd.DataFrame) -> str:
    """What plot_per_class does not show; empty if it shows every class."""
    classes, half = data["rank"].max(), len(data) // 2
    if classes == len(data):
        return ""
    return f" Of {classes} classes the {half} with the lowest recall and the {half} with the highest are shown."


def picture(trial: EvaluatedTrial) -> Picture | None:
    if trial.predictions is None:
        return None
    metrics = trial.metrics()
    data = per_class_data(metrics["per_class"])
    sentence = per_class_sentence(metrics) + left_out_sentence(data)
    return Picture("per_class", "Recall and precision of each class", plot_per_class(data), sentence)
