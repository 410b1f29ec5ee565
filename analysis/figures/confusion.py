"""Who is taken for whom: the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import EvaluatedTrial
from analysis.figures.style import MUTED, Picture, drawing, styled
from analysis.text import fitted

CLASSES_WITH_NUMBERS = 20  # a larger confusion matrix shows colours only


def confusion_data(matrix: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Counts (true, predicted) as shares of their true class in [0, 1]; a class without images is all 0."""
    counts = np.asarray(matrix, dtype=np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@styled
def plot_confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """True classes down, predicted ones across, coloured by the share of the true class; numbers are images."""
    shares, size = confusion_data(matrix), len(class_names)
    figure = drawing(height=5.6)
    axes = figure.subplots()
    picture = axes.imshow(np.ma.masked_equal(shares, 0), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    step = 1 if size <= 2 * CLASSES_WITH_NUMBERS else -(-size // 25)
    ticks, names = np.arange(0, size, step), [fitted(name) for name in class_names[::step]]
    fontsize = 9 if size <= 12 else 6.5
    turned = max(map(len, names)) * size > 60
    axes.set_xticks(ticks, names, rotation=90 if turned else 0, fontsize=max(7, fontsize))
    axes.set_yticks(ticks, names, fontsize=max(7, fontsize))
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set(visible=True, color=MUTED)
    if size <= CLASSES_WITH_NUMBERS:
        for row, column in np.argwhere(shares):
            colour = "#ffffff" if shares[row, column] > 0.3 else "#222222"
            count = str(matrix[row][column])
            axes.text(column, row, count, ha="center", va="center", fontsize=fontsize, color=colour)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.7, ticks=[0, 0.05, 0.2, 0.5, 1])
    return figure


def confusion_sentence(metrics: dict[str, Any], class_names: tuple[str, ...]) -> str:
    matrix = np.array(metrics["confusion_matrix"])
    right, n = int(np.trace(matrix)), metrics["n"]
    np.fill_diagonal(matrix, 0)
    if right == n:
        return f"All test images are classified correctly (n = {n:,})."
    true, predicted = np.unravel_index(int(matrix.argmax()), matrix.shape)
    count, support = int(matrix[true, predicted]), metrics["per_class"][true]["support"]
    return (
        f"{right:,} of {n:,} test images are on the diagonal; the commonest confusion is {class_names[true]} taken for "
        f"{class_names[predicted]}, {count:,} of {support:,} images."
    )


def picture(trial: EvaluatedTrial) -> Picture | None:
    if trial.predictions is None:
        return None
    metrics, names = trial.metrics(), trial.class_names
    figure = plot_confusion(metrics["confusion_matrix"], names)
    return Picture("confusion", "Confusion matrix", figure, confusion_sentence(metrics, names))
