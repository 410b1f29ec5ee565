"""Pictures of images and of predictions on them: a batch, who is taken for whom, how well each class is recognised,
how far the confidence can be trusted, samples with output distributions, and the most confident mistakes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import BATCH_SHOWN, EvaluatedTrial, Evaluation
from analysis.evaluating.metrics import calibration_data, probabilities
from analysis.evaluating.statistics import Z_95, wilson_interval
from analysis.figures.style import BEST, INK, MUTED, RIGHT, WRONG, Picture, drawing, grid, message, styled
from analysis.text import compact, percent, plural
from training.config import DataConfig

CLASSES_WITH_NUMBERS = 20  # a larger confusion matrix shows colours only
CLASSES_WITH_BARS = 20  # of more classes only the worst and the best half of so many
PRECISION = "#e69f00"  # Okabe and Ito's orange, beside their blue
LONGEST_NAME = 14  # characters of a class name on an axis


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """A class name that fits beside a figure, on one line: its beginning and its end, which may be a number."""
    name = " ".join(name.split())
    tail = longest // 3
    return name if len(name) <= longest else f"{name[: longest - tail - 1]}…{name[-tail:]}"


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
        axes.set_title(short(class_names[int(label)], 12), fontsize=7.5, pad=3)
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
    axes.set_xticks(ticks, names, rotation=90 if turned else 0, fontsize=max(7, fontsize))
    axes.set_yticks(ticks, names, fontsize=max(7, fontsize))
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


def per_class_data(per_class: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Classes with test images, lowest recall first: class, recall, low, high (95 % interval of it), precision.

    Of more than 20 classes the 10 worst and the 10 best; `rank` counts all of them from 1.
    """
    rows = []
    for row in per_class:
        if row["support"]:
            low, high = wilson_interval(round(row["recall"] * row["support"]), row["support"])
            rows.append((row["class"], row["recall"], low, high, row["precision"]))
    frame = pd.DataFrame(rows, columns=["class", "recall", "low", "high", "precision"])
    frame = frame.sort_values(["recall", "precision"], kind="stable", ignore_index=True)
    frame["rank"] = np.arange(1, len(frame) + 1)
    if len(frame) <= CLASSES_WITH_BARS:
        return frame
    half = CLASSES_WITH_BARS // 2
    return pd.concat([frame.head(half), frame.tail(half)], ignore_index=True)


@styled
def plot_per_class(data: pd.DataFrame) -> Figure:
    """Recall with its 95 % interval and precision as bars, the worst class on top; a gap where classes are left out."""
    figure = drawing(height=0.9 + 0.31 * (len(data) + 1))
    axes = figure.subplots()
    gap = data["rank"].diff().gt(1).cumsum()  # 0 above the classes left out, 1 below
    rows = np.arange(len(data)) + gap.to_numpy()
    recall, precision = 100 * data["recall"], 100 * data["precision"]
    # Rounding must not leave a whisker of negative length.
    whiskers = np.array([recall - 100 * data["low"], 100 * data["high"] - recall]).clip(min=0)
    axes.barh(rows - 0.19, recall, height=0.36, color=BEST, label="recall, with its 95 % interval")
    axes.errorbar(recall, rows - 0.19, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.barh(rows + 0.19, precision, height=0.36, color=PRECISION, label="precision")
    if gap.any():
        left_out = int(data["rank"].diff().max()) - 1
        row = float(rows[gap.to_numpy() == 1][0]) - 1
        axes.text(1, row, f"{left_out} classes between", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(rows, [short(name) for name in data["class"]], fontsize=9)
    axes.set(xlabel="share of images (%)", xlim=(0, 102), ylim=(rows.max() + 0.6, -0.6))
    axes.tick_params(axis="y", length=0)
    grid(axes)
    axes.grid(False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


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
    figure.legend(loc="outside upper center", ncols=2)
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
        picture.set_anchor("NW")
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


@styled
def plot_mistakes(mistakes: Sequence[Sample], columns: int = 6) -> Figure:
    """Images with their true class above, and below what they were taken for, with the confidence."""
    if not mistakes:
        return message(drawing(height=0.6), "there is no mistake to show")
    rows = -(-len(mistakes) // columns)
    figure = drawing(height=0.1 + 1.55 * rows)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, mistake in zip(figure.axes, mistakes, strict=False):
        axes.imshow(mistake.image, interpolation="nearest")
        axes.set_title(short(mistake.label, 12), fontsize=8, weight="bold", pad=3)
        confidence = percent(mistake.top[0][1], 1)
        axes.text(
            0.5, -0.04, f"{short(mistake.predicted)}\n{confidence}", transform=axes.transAxes, ha="center", va="top",
            fontsize=8, color=WRONG,
        )  # fmt: skip
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
    """What plot_per_class does not show; empty where it shows every class."""
    classes = int(data["rank"].max())
    if classes == len(data):
        return ""
    half = len(data) // 2
    return f" Of {classes} classes the {half} with the lowest recall and the {half} with the highest are shown."


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


def samples_sentence(samples: Sequence[Sample], metrics: dict[str, Any]) -> str:
    right, n = sum(sample.is_correct for sample in samples), metrics["n"]
    drawn = "All test images" if len(samples) == n else f"{len(samples)} of {n:,} test images drawn at random"
    return (
        f"{drawn}, mistakes first. Classified correctly: {right} of {len(samples)}, over the whole split "
        f"{percent(metrics['test_accuracy'])}. Above each image its true class, beside it the likeliest classes."
    )


def mistakes_sentence(mistakes: Sequence[Sample], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    confidence, correct = probabilities(logits).max(1), logits.argmax(1) == labels
    wrong = int((~correct).sum())
    if not wrong:
        certainty = percent(confidence.mean(), 1)
        return (
            f"The network makes no mistake on {plural(len(labels), 'test image')}; its mean confidence is {certainty}."
        )
    first, last = (percent(mistake.top[0][1], 1) for mistake in (mistakes[0], mistakes[-1]))
    which = f"The {len(mistakes)} most confident of {wrong:,} mistakes" if len(mistakes) < wrong else "Every mistake"
    (true, predicted), count = Counter((each.label, each.predicted) for each in mistakes).most_common(1)[0]
    commonest = f" {count} of them are {true} taken for {predicted}." if count > 2 else ""
    spread = f"confidence {first}" if first == last else f"confidence {first} down to {last}"
    sure = f", when right {percent(confidence[correct].mean(), 1)}" if correct.any() else ""
    return (
        f"{which}, {spread}: above each image its true class, below what it was taken for.{commonest} Mean confidence "
        f"when wrong is {percent(confidence[~correct].mean(), 1)}{sure}."
    )


def augmentation_text(config: DataConfig) -> str:
    """What training does to an image, as configured."""
    done = []
    if config.crop_padding:
        reach = plural(config.crop_padding, "pixel")
        done.append(f"shifted by up to {reach} each way, the border reflected")
    if config.flip:
        done.append("mirrored left to right with probability 0.5")
    if config.cutout:
        done.append(f"with a square of {config.cutout} × {config.cutout} pixels hidden behind the mean colour")
    return "; ".join(done) or "unchanged, for the config has no augmentation"


def training_batch_picture(evaluation: Evaluation) -> Picture | None:
    """Training images as the winner saw them, for the report; None where the data could not be had."""
    batch = evaluation.training_batch
    if batch is None:
        return None
    figure = plot_batch(batch.images, batch.labels, batch.class_names, count=BATCH_SHOWN)
    sentence = (
        f"The first images that trial {batch.number} was trained on, as the network saw them: "
        f"{augmentation_text(batch.config)}. Above each image its label."
    )
    return Picture("training_batch", "A batch of training images", figure, sentence)


def prediction_pictures(trial: EvaluatedTrial) -> list[Picture]:
    """What a network does on the test split, for the report; none where it was not evaluated there."""
    kept, names, metrics = trial.predictions, trial.class_names, trial.metrics()
    if kept is None:
        return []
    samples, mistakes = (
        samples_data(images, kept.logits[chosen], kept.labels[chosen], names)
        for images, chosen in ((kept.sample_images, kept.sample_indices), (kept.mistake_images, kept.mistake_indices))
    )
    matrix, per_class = metrics["confusion_matrix"], per_class_data(metrics["per_class"])
    calibration = calibration_data(kept.logits, kept.labels)
    recalls = per_class_sentence(metrics) + left_out_sentence(per_class)
    sure = mistakes_sentence(mistakes, kept.logits, kept.labels)
    return [
        Picture("confusion", "Confusion matrix", plot_confusion(matrix, names), confusion_sentence(metrics, names)),
        Picture("per_class", "Recall and precision of each class", plot_per_class(per_class), recalls),
        Picture("calibration", "Calibration", plot_calibration(calibration[0]), calibration_sentence(*calibration)),
        Picture(
            "samples", "Samples with the output distribution", plot_samples(samples), samples_sentence(samples, metrics)
        ),
        Picture("mistakes", "The most confident mistakes", plot_mistakes(mistakes), sure),
    ]
