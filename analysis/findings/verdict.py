"""What the numbers say of the winner, in sentences, and the headline of the report. Pure functions of results."""

from pathlib import Path
from typing import Any

from analysis.evaluating.evaluation import Evaluation
from analysis.evaluating.statistics import paired_gain
from analysis.findings.trials import trained
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import duration, percent, plural, points, shown
from search.record.endings import Ending


def verdict(results: SearchResults, evaluation: Evaluation) -> dict[str, Any]:
    """The headline's numbers; `winner` is None if no network can be called best."""
    best, winner = results.best_trial, evaluation.winner
    config = None if best is None else results.config_of(best.number)
    kind, colon, path = results.config.data.dataset.partition(":")
    return {
        "best": best,
        "winner": winner and winner.metrics(),
        "defaults": evaluation.defaults and evaluation.defaults.metrics(),
        "gain": gain(evaluation),
        "mirrored": mirrored(evaluation),
        "checks": reproductions(evaluation),
        "cost": cost(results),
        "dataset": kind + colon + Path(path).name,  # of folder:PATH the last part of the path
        "device": evaluation.device,
        "params": [] if best is None else [(path, shown(value)) for path, value in best.params.items()],
        "epochs": config and config.train.epochs,
    }


def reproductions(evaluation: Evaluation) -> list[str]:
    """Whether the reloaded winner and defaults, or the one that is both, have the val accuracy that was recorded."""
    sentences = {}
    for trial in filter(None, (evaluation.winner, evaluation.defaults)):
        recorded, network = trial.val_accuracy, f"The reloaded network of trial {trial.number} has"
        if trial.val_accuracy_now is None:
            sentences[trial.number] = f"The val accuracy of trial {trial.number} could not be checked."
        elif trial.reproduced:
            sentences[trial.number] = f"{network} exactly the recorded val accuracy, {percent(recorded)}."
        else:
            sentences[trial.number] = (
                f"{network} val accuracy {percent(trial.val_accuracy_now, 4)}, recorded were {percent(recorded, 4)}: "
                f"trained on another device than {evaluation.device}, or on other images?"
            )
    return list(sentences.values())


def gain(evaluation: Evaluation) -> str:
    """What searching gained over trial 0 on the test split; empty if one of the two was not evaluated."""
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


def mirrored(evaluation: Evaluation) -> str:
    """What mirror images gain the winner on the test split; empty if that is not known."""
    kept = None if evaluation.winner is None else evaluation.winner.predictions
    if kept is None or kept.mirrored_logits is None:
        return ""
    correct, plain = (logits.argmax(1) == kept.labels for logits in (kept.mirrored_logits, kept.logits))
    difference, low, high = paired_gain(correct, plain)
    return (
        "With the logits averaged over each image and its mirror image, the winner's test accuracy is "
        f"{percent(correct.mean())}, {points(difference)} points (95 % interval {points(low)} to {points(high)}); "
        "--predict and --export do so with --mirror."
    )


def cost(results: SearchResults) -> str:
    """How much was trained, and how long that took."""
    infeasible = int((endings(results.trials) == Ending.INFEASIBLE).sum())
    trials = trained(results)
    seconds = float(results.epochs["epoch_seconds"].sum())
    parts = [f"{plural(len(trials), 'trial')}, {plural(len(results.epochs), 'epoch')}, {duration(seconds)} of training"]
    if infeasible:
        parts.append(f"{plural(infeasible, 'infeasible proposal')} told to the sampler without training")
    return "; ".join(parts) + "."
