"""What predictions on a split are worth: pure functions of logits and labels. Knows neither networks nor files."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch.nn.functional import cross_entropy

from analysis.evaluating.statistics import wilson_interval

TOP = 5  # likeliest classes, the true one among which counts as right in top_5_accuracy
SAMPLE_SEED = 0  # fixed: every network is shown on the same images


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the last axis: (N, num_classes) -> the same."""
    return torch.softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


def classification_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """JSON-ready metrics of logits (N, num_classes) against labels (N,).

    Rows of the confusion matrix are true classes, columns predicted ones. Precision, recall and F1 of a class that was
    never predicted or never there are 0, as in scikit-learn; balanced accuracy is the mean recall of the classes there,
    macro F1 the mean F1 of the classes there or predicted. top_5_accuracy is there with more than 5 classes.
    """
    predicted = logits.argmax(1)
    correct, n = int((predicted == labels).sum()), len(labels)
    classes = np.arange(len(class_names))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    columns = zip(class_names, precision, recall, f1, support, strict=True)
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    top_5 = {f"top_{TOP}_accuracy": float((likeliest == labels[:, None]).any(1).mean())}
    return {
        "test_accuracy": correct / n,
        "test_accuracy_interval_95": list(wilson_interval(correct, n)),
        "test_loss": float(cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))),
        **(top_5 if len(class_names) > TOP else {}),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[np.union1d(labels, predicted)].mean()),
        "expected_calibration_error": calibration_data(logits, labels)[1],
        "n": n,
        "per_class": [
            {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in columns
        ],
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def calibration_data(
    logits: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15
) -> tuple[pd.DataFrame, float]:
    """(bins, expected calibration error in [0, 1]) as in Guo et al., 2017; NaN if a logit is not finite.

    Confidence is the largest softmax probability. One row for each bin of equal width, low < confidence <= high:
    count, mean confidence, accuracy, and `deviation`, the standard deviation that their difference would have if the
    network were perfectly calibrated; NaN in an empty bin. The error is |accuracy - confidence| averaged over images.
    """
    confidence, correct = probabilities(logits).max(1), logits.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    sums, right, variance = (
        np.bincount(place, weights, bins) for weights in (confidence, correct, confidence * (1 - confidence))
    )
    there = np.where(count > 0, count, np.nan)
    frame = pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "confidence": sums / there,
            "accuracy": right / there,
            "deviation": np.sqrt(variance.clip(min=0)) / there,
        }
    )
    return frame, float(np.abs(right - sums).sum() / len(labels))


def random_sample(logits: NDArray[np.float32], labels: NDArray[np.int64], count: int = 12) -> NDArray[np.int64]:
    """Indices of images drawn at random, whatever the network says of them; those it gets wrong come first."""
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(labels), min(count, len(labels)), replace=False)
    is_correct = logits[drawn].argmax(1) == labels[drawn]
    return drawn[np.argsort(is_correct, kind="stable")]


def surest_mistakes(logits: NDArray[np.float32], labels: NDArray[np.int64], count: int = 12) -> NDArray[np.int64]:
    """Indices of the mistakes with the highest confidence, highest first."""
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    confidence = probabilities(logits[wrong]).max(1)
    return wrong[np.argsort(-confidence, kind="stable")[:count]]
