"""Pictures of images and of predictions on them: a batch, samples with output distributions, who is taken for whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluation import EvaluatedTrial
from analysis.metrics import probabilities
from analysis.style import INK, MUTED, RIGHT, WRONG, Picture, drawing, styled
from analysis.text import percent, plural

CLASSES_WITH_NUMBERS = 20  # a larger confusion matrix shows colours only
LONGEST_NAME = 14  # characters of a class name on an axis


def short(name: str) -> str:
    """A class name that fits beside a figure, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def batch_data(images: Any) -> NDArray[np.uint8]:
    """Images as uint8 (N, H, W, 3) from a tensor (B, C, H, W) or an array (N, H, W, C), C = 1 or 3. Or ValueError."""
    array = (
        images.detach().cpu().permute(0, 2, 3, 1).numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    )
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must be a tensor (B, C, H, W) or an array (N, H, W, C) with C = 1 or 3, got {array.shape}"
        )
    return np.broadcast_to(array.clip(0, 255).astype(np.uint8), (*array.shape[:3], 3))


@styled
def plot_batch(images: Any, labels: Any, class_names: Sequence[str], count: int = 32, columns: int = 8) -> Figure:
    """The first images of a batch with their labels; `labels` (N,) are indices into class_names."""
    array = batch_data(images)[:count]
    columns = max(1, min(columns, len(array)))
    rows = max(1, -(-len(array) // columns))
    figure = drawing(height=0.1 + 1.02 * rows * 8 / max(columns, 4))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, label in zip(figure.axes, array, np.asarray(labels), strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(short(class_names[int(label)]), fontsize=8, pad=3)
    return figure


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
    picture = axes.imshow(
        np.ma.masked_equal(shares, 0), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    step = 1 if size <= 2 * CLASSES_WITH_NUMBERS else -(-size // 25)
    ticks, names = np.arange(0, size, step), [short(name) for name in class_names[::step]]
    fontsize = 9 if size <= 12 else 6.5
    turned = max(map(len, names)) * size > 60
    axes.set_xticks(ticks, names, rotation=90 if turned else 0, fontsize=fontsize)
    axes.set_yticks(ticks, names, fontsize=fontsize)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set(visible=True, color=MUTED)
    if size <= CLASSES_WITH_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            count = matrix[row][column]
            colour = "#ffffff" if share > 0.3 else "#222222"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", fontsize=fontsize, color=colour)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.7, ticks=[0, 0.05, 0.2, 0.5, 1])
    return figure


@dataclass(frozen=True)
class Sample:
    """A test image with the likeliest classes."""

    image: NDArray[np.uint8]  # (H, W, C)
    label: str
    predicted: str
    top: list[tuple[str, float]]  # (class, probability), likeliest first

    @property
    def is_correct(self) -> bool:
        return self.label == self.predicted


def samples_data(
    images: NDArray[np.uint8],
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    shown: int = 4,
) -> list[Sample]:
    """Images (S, H, W, C) with the `shown` likeliest classes of logits (S, num_classes), the true one among them."""
    samples = []
    for image, shares, label in zip(images, probabilities(logits), labels, strict=True):
        order = np.argsort(-shares, kind="stable")
        top = [int(index) for index in order[:shown]]
        if label not in top:
            top[-1] = int(label)
        ranked = [(class_names[index], float(shares[index])) for index in top]
        samples.append(Sample(image, class_names[label], class_names[order[0]], ranked))
    return samples


@styled
def plot_samples(samples: Sequence[Sample], columns: int = 3) -> Figure:
    """Images beside their output distribution; above them the true class, ticked where it is the likeliest."""
    rows = max(1, -(-len(samples) // columns))
    figure = drawing(height=0.1 + 1.22 * rows)
    grids = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.15] * columns)
    for axes in grids.flat:
        axes.set_axis_off()
    pairs = grids.reshape(rows * columns, 2)
    for (picture, bars), sample in zip(pairs, samples, strict=False):
        colour, mark = (RIGHT, "✓") if sample.is_correct else (WRONG, "✗")
        picture.imshow(sample.image, interpolation="nearest")
        picture.set_title(f"{mark} {short(sample.label)}", fontsize=8, color=colour, weight="bold", pad=3, loc="left")
        _plot_distribution(bars, sample, colour)
    return figure


def _plot_distribution(axes: Any, sample: Sample, colour: str) -> None:
    shades = [colour if name in (sample.label, sample.predicted) else MUTED for name, _ in sample.top]
    axes.barh(range(len(sample.top)), [share for _, share in sample.top], height=0.3, color=shades)
    for row, (name, share) in enumerate(sample.top):
        weight = "bold" if name == sample.label else "normal"
        axes.text(
            0, row - 0.24, f"{short(name)}  {100 * share:.0f} %", fontsize=7, va="bottom", weight=weight, color=INK
        )
    axes.set(xlim=(0, 1), ylim=(len(sample.top) - 0.7, -0.95))


def confusion_sentence(metrics: dict[str, Any], class_names: tuple[str, ...]) -> str:
    matrix = np.array(metrics["confusion_matrix"])
    right, n = int(np.trace(matrix)), metrics["n"]
    np.fill_diagonal(matrix, 0)
    if right == n:
        return f"All {n:,} test images are classified correctly."
    true, predicted = np.unravel_index(int(matrix.argmax()), matrix.shape)
    count, support = int(matrix[true, predicted]), metrics["per_class"][true]["support"]
    return (
        f"{right:,} of {n:,} test images are on the diagonal; the commonest confusion is {class_names[true]} taken for "
        f"{class_names[predicted]}, {count} of {support} images."
    )


def per_class_sentence(metrics: dict[str, Any]) -> str:
    there = [row for row in metrics["per_class"] if row["support"]]
    worst, best = (pick(there, key=lambda row: row["recall"]) for pick in (min, max))
    return (
        f"Recall is lowest for {worst['class']}, {percent(worst['recall'], 1)}, and highest for {best['class']}, "
        f"{percent(best['recall'], 1)}; its mean, the balanced accuracy, is {percent(metrics['balanced_accuracy'])}."
    )


def samples_sentence(trial: EvaluatedTrial) -> str:
    assert trial.predictions is not None
    logits, labels = trial.predictions.logits, trial.predictions.labels
    certainty, correct = probabilities(logits).max(1), logits.argmax(1) == labels
    wrong = int((~correct).sum())
    if not wrong:
        confidence = percent(certainty.mean(), 1)
        return f"Above each image its true class. The network makes no mistake here; mean confidence {confidence}."
    shown = int((~correct)[trial.predictions.sample_indices].sum())
    mistakes = (
        f"the {shown} most confident of {wrong:,} mistakes" if shown < wrong else f"the {plural(wrong, 'mistake')}"
    )
    sure = f"; mean confidence when right {percent(certainty[correct].mean(), 1)}" if correct.any() else ""
    return (
        f"Above each image its true class: first {mistakes}, then correct answers spread over the split"
        f"{sure}, when wrong {percent(certainty[~correct].mean(), 1)}."
    )


def prediction_pictures(trial: EvaluatedTrial) -> list[Picture]:
    """What a network does on the test split, for the report; none where it was not evaluated there."""
    kept, names, metrics = trial.predictions, trial.class_names, trial.metrics()
    if kept is None:
        return []
    chosen = kept.sample_indices
    samples = samples_data(kept.sample_images, kept.logits[chosen], kept.labels[chosen], names)
    matrix = metrics["confusion_matrix"]
    return [
        Picture("confusion", "Confusion matrix", plot_confusion(matrix, names), confusion_sentence(metrics, names)),
        Picture("samples", "Samples with the output distribution", plot_samples(samples), samples_sentence(trial)),
    ]
