"""Test images beside their output distributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import EvaluatedTrial
from analysis.evaluating.metrics import probabilities
from analysis.figures.style import INK, MUTED, RIGHT, WRONG, Picture, drawing, styled
from analysis.text import fitted, percent


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
        top = order[:shown] if label in order[:shown] else [*order[: shown - 1], label]
        ranked = [(class_names[index], float(shares[index])) for index in top]
        samples.append(Sample(image, class_names[label], class_names[order[0]], ranked))
    return samples


@styled
def plot_samples(samples: Sequence[Sample], columns: int = 3) -> Figure:
    """Images beside their output distribution; above them the true class, ticked if it is the likeliest."""
    rows = max(1, -(-len(samples) // columns))
    figure = drawing(height=0.1 + 1.22 * rows)
    grids = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.15] * columns).reshape(-1, 2)
    for axes in grids.flat:
        axes.set_axis_off()
    for (picture, bars), sample in zip(grids, samples, strict=False):
        colour, mark = (RIGHT, "✓") if sample.is_correct else (WRONG, "✗")
        picture.imshow(sample.image)
        picture.set_anchor("NW")
        picture.set_title(f"{mark} {fitted(sample.label)}", fontsize=8, color=colour, weight="bold", pad=3, loc="left")
        _plot_distribution(bars, sample, colour)
    return figure


def _plot_distribution(axes: Axes, sample: Sample, colour: str) -> None:
    shades = [colour if name in (sample.label, sample.predicted) else MUTED for name, _ in sample.top]
    axes.barh(range(len(sample.top)), [share for _, share in sample.top], height=0.3, color=shades)
    for row, (name, share) in enumerate(sample.top):
        weight, words = "bold" if name == sample.label else "normal", f"{fitted(name)}  {100 * share:.0f} %"
        axes.text(0, row - 0.24, words, fontsize=7, va="bottom", weight=weight, color=INK)
    axes.set(xlim=(0, 1), ylim=(len(sample.top) - 0.7, -0.95))


def samples_sentence(samples: Sequence[Sample], metrics: dict[str, Any]) -> str:
    right, n = sum(sample.is_correct for sample in samples), metrics["n"]
    drawn = "All test images" if len(samples) == n else f"{len(samples)} of {n:,} test images drawn at random"
    return (
        f"{drawn}, mistakes first. Classified correctly: {right} of {len(samples)}, over the whole split "
        f"{percent(metrics['test_accuracy'])}. Above each image its true class, beside it the likeliest classes."
    )


def picture(trial: EvaluatedTrial) -> Picture | None:
    kept = trial.predictions
    if kept is None:
        return None
    drawn = kept.sample_indices
    samples = samples_data(kept.sample_images, kept.logits[drawn], kept.labels[drawn], trial.class_names)
    title = "Samples with the output distribution"
    return Picture("samples", title, plot_samples(samples), samples_sentence(samples, trial.metrics()))
