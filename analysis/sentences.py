"""What the numbers say, in sentences: one under each figure, and the verdict. Pure functions of results."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation import EvaluatedTrial, Evaluation
from analysis.metrics import paired_gain, probabilities
from analysis.results import SearchResults
from analysis.search_figures import ending_of


def percent(share: float, digits: int = 2) -> str:
    """A share in [0, 1] as `97.50 %`."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def compact(number: float) -> str:
    """`812`, `76.0 k`, `1.2 M`, `3.4 G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def accuracy_text(trial: EvaluatedTrial) -> str:
    """Test accuracy with its 95 % interval and n; says so where the test split was not evaluated."""
    metrics = trial.metrics()
    if "test_accuracy" not in metrics:
        return "not evaluated on the test split"
    low, high = metrics["test_accuracy_interval_95"]
    return (
        f"{percent(metrics['test_accuracy'])} (95 % interval {100 * low:.2f} to {percent(high)}, n = {metrics['n']:,})"
    )


def reproduction(trial: EvaluatedTrial, device: str) -> str:
    """Whether the reloaded network has the val accuracy that was recorded."""
    if trial.val_accuracy_now is None:
        return f"The val accuracy of trial {trial.number} could not be checked."
    if trial.reproduced:
        recorded = percent(trial.val_accuracy)
        return f"The reloaded network of trial {trial.number} has exactly the recorded val accuracy, {recorded}."
    return (
        f"The reloaded network of trial {trial.number} has val accuracy {percent(trial.val_accuracy_now, 4)}, "
        f"recorded were {percent(trial.val_accuracy, 4)}: trained on another device than {device}, or on other images?"
    )


def gain(evaluation: Evaluation) -> str:
    """What searching gained over trial 0 on the test split; empty where one of the two was not evaluated."""
    winner, defaults = evaluation.winner, evaluation.defaults
    if winner is None or defaults is None or winner.predictions is None or defaults.predictions is None:
        return ""
    if winner.number == defaults.number:
        return "The defaults, trial 0, are the winner: searching found nothing better on the val split."
    ours, theirs = (t.predictions.logits.argmax(1) == t.predictions.labels for t in (winner, defaults) if t.predictions)
    if len(ours) != len(theirs):
        return ""
    difference, low, high = paired_gain(ours, theirs)
    clear = "" if low > 0 or high < 0 else ", which does not exclude 0"
    return (
        f"That is {points(difference)} points against the defaults, trial 0, with {percent(theirs.mean())} on the same "
        f"images (95 % interval {points(low)} to {points(high)}{clear})."
    )


def cost(results: SearchResults) -> str:
    """How much was trained, and how long that took."""
    infeasible = int((results.trials["stopped_by"] == "infeasible").sum())
    never_began = (results.trials["stopped_by"] == "time_budget") & (results.trials["epochs"] == 0)
    trials = results.trials[(results.trials["stopped_by"] != "infeasible") & ~never_began]
    seconds = float(results.epochs["epoch_seconds"].sum())
    parts = [f"{plural(len(trials), 'trial')}, {plural(len(results.epochs), 'epoch')}, {duration(seconds)} of training"]
    if infeasible:
        parts.append(f"{plural(infeasible, 'infeasible proposal')} told to the sampler without training")
    return "; ".join(parts) + "."


def incumbent_sentence(data: pd.DataFrame) -> str:
    best = data[data["best"].notna()]
    if best.empty:
        return "No trial is COMPLETE yet, so none can be called best."
    won = best[best["best"] == best["best"].iloc[-1]].iloc[0]
    rank, total = int(won.name) + 1, float(data["minutes"].max())
    return (
        f"The best val accuracy of a COMPLETE trial, {percent(won['best'])}, was reached by trial {int(won['number'])} "
        f"after {duration(60 * won['minutes'])} of {duration(60 * total)}, as number {rank} of {len(data)} to end."
    )


def curves_sentence(results: SearchResults) -> str:
    if results.epochs.empty:
        return "No trial has finished an epoch yet."
    endings = pd.Series({trial.number: ending_of(trial) for trial in results.trials.itertuples()})
    by_ending = results.epochs["number"].map(endings).value_counts()
    stopped = int((endings == "asha").sum())
    complete = int((endings == "complete").sum())
    text = f"{plural(complete, 'trial')} trained all {results.config.train.epochs} epochs"
    if stopped:
        share = by_ending.get("asha", 0) / len(results.epochs)
        text += f"; {stopped} stopped at a rung used {percent(share, 0)} of all epochs"
    diverged = int((endings == "diverged").sum())
    return text + (f"; {diverged} diverged." if diverged else ".")


def network_sentence(number: int, layers: list[dict[str, Any]]) -> str:
    num_params, multiply_adds = (sum(layer[key] for layer in layers) for key in ("num_params", "multiply_adds"))
    costliest = max(layers, key=lambda layer: layer["multiply_adds"])
    share = costliest["multiply_adds"] / max(1, multiply_adds)
    return (
        f"The network of trial {number} has {num_params:,} parameters and needs {compact(multiply_adds)} multiply-adds "
        f"for an image, {percent(share, 0)} of them in {costliest['name']}."
    )


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
