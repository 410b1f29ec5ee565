"""What predictions on a split are worth: pure functions of logits and labels. Knows neither networks nor files."""

from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch.nn.functional import cross_entropy

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of an accuracy in [0, 1] (Wilson, 1927). n >= 1 must hold."""
    p, z2 = correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At 0 and n correct the formula's bound is exactly 0 or 1, up to rounding.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def paired_gain(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> tuple[float, float, float]:
    """(difference of two accuracies, lower, upper): 95 % Wald interval; both are (N,), on the same images."""
    difference = correct.astype(float) - baseline.astype(float)
    half = Z_95 * float(difference.std()) / sqrt(len(difference))
    gain = float(difference.mean())
    return gain, max(-1.0, gain - half), min(1.0, gain + half)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the last axis: (N, num_classes) -> the same."""
    return torch.softmax(torch.from_numpy(logits).double(), dim=-1).numpy()


def classification_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """JSON-ready metrics of logits (N, num_classes) against labels (N,).

    Rows of the confusion matrix are true classes, columns predicted ones. Precision, recall and F1 of a class that was
    never predicted or never there are 0, as in scikit-learn; balanced accuracy is the mean recall of the classes there.
    """
    predicted = logits.argmax(1)
    correct, n = int((predicted == labels).sum()), len(labels)
    classes = np.arange(len(class_names))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    columns = zip(class_names, precision, recall, f1, support, strict=True)
    return {
        "test_accuracy": correct / n,
        "test_accuracy_interval_95": list(wilson_interval(correct, n)),
        "test_loss": float(cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "n": n,
        "per_class": [
            {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in columns
        ],
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def choose_samples(logits: NDArray[np.float32], labels: NDArray[np.int64], count: int = 12) -> NDArray[np.int64]:
    """Indices to look at: half of them the most confident mistakes, the rest correct ones spread over the split."""
    certainty = probabilities(logits).max(1)
    is_wrong = logits.argmax(1) != labels
    wrong = np.flatnonzero(is_wrong)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][: count // 2]
    correct = np.flatnonzero(~is_wrong)
    spread = np.linspace(0, len(correct) - 1, min(count - len(wrong), len(correct))).astype(np.int64)
    return np.concatenate([wrong, correct[spread]])
