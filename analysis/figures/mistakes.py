"""The most confident mistakes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import EvaluatedTrial
from analysis.evaluating.metrics import probabilities
from analysis.figures.samples import Sample, samples_data
from analysis.figures.style import WRONG, Picture, drawing, message, styled
from analysis.text import fitted, percent, plural


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
        axes.imshow(mistake.image)
        axes.set_title(fitted(mistake.label, 12), fontsize=8, weight="bold", pad=3)
        words = f"{fitted(mistake.predicted)}\n{percent(mistake.top[0][1], 1)}"
        axes.text(0.5, -0.04, words, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=WRONG)
    return figure


def mistakes_sentence(mistakes: Sequence[Sample], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    confidence, correct = probabilities(logits).max(1), logits.argmax(1) == labels
    wrong = int((~correct).sum())
    if not wrong:
        images, certainty = plural(len(labels), "test image"), percent(confidence.mean(), 1)
        return f"The network makes no mistake on {images}; its mean confidence is {certainty}."
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


def picture(trial: EvaluatedTrial) -> Picture | None:
    kept = trial.predictions
    if kept is None:
        return None
    wrong = kept.mistake_indices
    mistakes = samples_data(kept.mistake_images, kept.logits[wrong], kept.labels[wrong], trial.class_names)
    sentence = mistakes_sentence(mistakes, kept.logits, kept.labels)
    return Picture("mistakes", "The most confident mistakes", plot_mistakes(mistakes), sentence)
