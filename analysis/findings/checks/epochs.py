"""Whether the best trial was trained too short, or overfits."""

from typing import Any

from analysis.findings.checks.check import Check, fine, unknown
from analysis.findings.checks.commands import new_search
from analysis.findings.trials import too_few_complete
from analysis.reading.results import SearchResults
from analysis.text import plural, points, shown

RISING = 0.005  # gain of the last two epochs
SMALL_GAP = 0.05  # train minus val accuracy: below, the network has not fitted its training images
OVERFITTED = 1.05  # val loss at the end over its minimum


def check_epochs(results: SearchResults) -> Check:
    """Were the epochs enough?"""
    name = "Were the epochs enough?"
    best, epochs = results.best_trial, results.config.train.epochs
    if best is None or best.provisional:
        return unknown(name, too_few_complete(results) + ".")
    curve = results.epochs[results.epochs["number"] == best.number].set_index("epoch").sort_index()
    if (
        not {epochs - 2, epochs} <= set(curve.index)
        or epochs < 3
        or curve["val_accuracy"][[epochs - 2, epochs]].hasnans
    ):
        return unknown(
            name, f"Of trial {best.number} the last three of {plural(epochs, 'epoch')} are not all recorded."
        )
    gain = float(curve["val_accuracy"][epochs] - curve["val_accuracy"][epochs - 2])
    finding = f"In its last 2 of {epochs} epochs trial {best.number} gained {points(gain)} points of val accuracy"
    schedule = results.config_of(best.number).optimizer.schedule
    finding += "." if schedule == "constant" else f" (schedule {schedule}: some rise at the end is its doing)."
    if curve[["train_loss", "val_loss", "train_accuracy"]].isna().to_numpy().any():
        return unknown(
            name, f"{finding} Its losses are not all recorded, so that over- and underfitting cannot be told."
        )
    gap = float(curve["train_accuracy"][epochs] - curve["val_accuracy"][epochs])
    finding += f" Train accuracy, on augmented images, is then {points(gap)} points against val accuracy."
    lowest: Any = curve["val_loss"].idxmin()
    least, last = float(curve["val_loss"][lowest]), float(curve["val_loss"][epochs])
    if last > OVERFITTED * least and curve["train_loss"][epochs] < curve["train_loss"][lowest]:
        fall = float(curve["val_accuracy"].max() - curve["val_accuracy"][epochs])
        remedies = regularisation(results)
        return Check(
            name,
            "act" if fall > RISING else "look",
            f"{finding} Val loss rose from {shown(least)} in epoch {lowest} to {shown(last)} while train loss fell: "
            f"overfitting. Val accuracy ended {points(-fall)} points from its highest.",
            "Search with more regularisation." if remedies else "Train fewer epochs, or get more images.",
            new_search(results, remedies) if remedies else None,
        )
    if gain < RISING:
        return fine(name, f"{finding} Val accuracy has settled and val loss has not risen.")
    command = new_search(results, {"train.epochs": 2 * epochs})
    return Check(
        name,
        "act" if gap < SMALL_GAP else "look",
        f"{finding} It was still improving" + (" and has not fitted its training images." if gap < SMALL_GAP else "."),
        f"Search with {2 * epochs} epochs. Accuracies do not compare with those after {epochs}, so the sampler starts "
        "afresh, but the best configurations of this search come first.",
        command,
    )


def regularisation(results: SearchResults) -> dict[str, Any]:
    """Entries for regularisers that the space lacks and whose defaults they hold, as paths to set."""
    base = results.config
    found: dict[str, Any] = {}
    for path, default, highest in (
        ("model.dropout", base.model.dropout, 0.5),
        ("train.label_smoothing", base.train.label_smoothing, 0.2),
    ):
        if path not in results.space and default <= highest:
            found[f"space.{path}"] = {"float": [0.0, highest]}
    if "data.cutout" not in results.space and base.data.cutout == 0:
        found["space.data.cutout"] = {"choice": [0, base.data.image_size // 4]}
    return found
