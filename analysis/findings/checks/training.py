"""Whether trials were trained as they should: the epochs, early stopping, and trials that diverged or failed."""

from collections import Counter
from typing import Any

import pandas as pd

from analysis.evaluating.statistics import spearman
from analysis.findings.checks.check import Check, Verdict, fine, new_search, unknown
from analysis.findings.checks.space import is_number, with_end
from analysis.findings.trials import last_line, too_few_complete, trained
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import ordinal, percent, plural, points, run_search, shown
from search.record.endings import Ending
from search.space import value_at

RISING = 0.005  # gain of the last two epochs
SMALL_GAP = 0.05  # train minus val accuracy: below, the network has not fitted its training images
OVERFITTED = 1.05  # val loss at the end over its minimum
ENOUGH_TO_CORRELATE = 5  # trials trained all epochs
WEAK_CORRELATION = 0.5
SOME, MANY = 0.05, 0.2  # share of trials that diverged or failed
SEPARATED = 0.5  # Youden's J of a learning rate above which trials diverge
RATES = {
    "optimizer.learning_rate": "learning rates",
    "optimizer.other_learning_rate": "muon's other learning rates",
}


def check_epochs(results: SearchResults) -> Check:
    """Were the epochs enough?"""
    name = "Were the epochs enough?"
    best, epochs = results.best_trial, results.config.train.epochs
    if best is None or best.provisional:
        return unknown(name, too_few_complete(results) + ".")
    curve = results.epochs[results.epochs["number"] == best.number].set_index("epoch").sort_index()
    if epochs < 3 or curve["val_accuracy"].reindex([epochs - 2, epochs]).hasnans:
        why = f"Of trial {best.number} the last three of {plural(epochs, 'epoch')} are not all recorded."
        return unknown(name, why)
    end: Any = curve.loc[epochs]
    gain = float(end["val_accuracy"] - curve["val_accuracy"][epochs - 2])
    finding = f"In its last 2 of {epochs} epochs trial {best.number} gained {points(gain)} points of val accuracy"
    schedule = results.config_of(best.number).optimizer.schedule
    finding += "." if schedule == "constant" else f" (schedule {schedule}: some rise at the end is its doing)."
    if curve[["train_loss", "val_loss", "train_accuracy"]].isna().to_numpy().any():
        why = "Its losses are not all recorded, so that over- and underfitting cannot be told."
        return unknown(name, f"{finding} {why}")
    gap = float(end["train_accuracy"] - end["val_accuracy"])
    finding += f" Train accuracy, on augmented images, is then {points(gap)} points against val accuracy."
    lowest: Any = curve["val_loss"].idxmin()
    least, last = float(curve["val_loss"][lowest]), float(end["val_loss"])
    if last > OVERFITTED * least and end["train_loss"] < curve["train_loss"][lowest]:
        fall = float(curve["val_accuracy"].max() - end["val_accuracy"])
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
    return Check(
        name,
        "act" if gap < SMALL_GAP else "look",
        f"{finding} It was still improving" + (" and has not fitted its training images." if gap < SMALL_GAP else "."),
        f"Search with {2 * epochs} epochs. Accuracies do not compare with those after {epochs}, so the sampler starts "
        "afresh, but the best configurations of this search come first.",
        new_search(results, {"train.epochs": 2 * epochs}),
    )


def regularisation(results: SearchResults) -> dict[str, Any]:
    """Entries for regularisers that the space lacks and whose defaults they hold, as paths to set."""
    base = results.config
    entries: dict[str, dict[str, Any]] = {}
    if base.model.dropout <= 0.5:
        entries["model.dropout"] = {"float": [0.0, 0.5]}
    if base.train.label_smoothing <= 0.2:
        entries["train.label_smoothing"] = {"float": [0.0, 0.2]}
    if base.data.cutout == 0:
        entries["data.cutout"] = {"choice": [0, base.data.image_size // 4]}
    return {f"space.{path}": entry for path, entry in entries.items() if path not in results.space}


def check_early_stopping(results: SearchResults, audited: bool = False) -> Check:
    """Was early stopping too hard?"""
    name = "Was early stopping too hard?"
    scheduler = results.settings.scheduler
    first = scheduler.grace_epochs
    if scheduler.name == "none" or first >= results.config.train.epochs:
        return fine(name, "No trial could be stopped early in this search.")
    trials = trained(results)
    stopped = trials[endings(trials) == Ending.ASHA]
    at_first = int((stopped["epochs"] == first).sum())
    complete = trials[trials["state"] == "COMPLETE"]
    share = f" ({percent(at_first / len(trials), 0)})" if len(trials) else ""
    finding = (
        f"{at_first} of {plural(len(trials), 'trial')}{share} were stopped at the first rung, after "
        f"{plural(first, 'epoch')}; {len(complete)} trained all epochs."
    )
    if audited:
        finding += " The audit trained stopped trials to the end: its section says what stopping cost."
        return Check(name, "look", finding, "Read the section on the audit.")
    if stopped.empty and complete.empty:
        return unknown(name, f"{finding} No trial has ended.")
    if stopped.empty:
        return fine(name, f"{finding} No trial was stopped at a later rung either.")
    command = run_search("--audit", results.place, "--trials", str(min(20, len(stopped))))
    train_some = "Train some of the stopped trials to the end."
    after_first = results.epochs[results.epochs["epoch"] == first].set_index("number")["val_accuracy"]
    rung = after_first.reindex(trials["number"]).dropna()
    start, end = rung.reindex(complete["number"]), complete.set_index("number")["val_accuracy"]
    both = start.notna() & end.notna()
    correlation = spearman(start[both], end[both]) if both.sum() >= ENOUGH_TO_CORRELATE else None
    if correlation is None:
        finding += (
            f" Too little to compare the first rung with the last epoch: {both.sum()} trials have both, "
            f"{ENOUGH_TO_CORRELATE} that differ are needed."
        )
        return Check(name, "unknown", finding, train_some, command)
    finding += (
        f" Among {both.sum()} trials trained all epochs, the rank correlation of val accuracy at the first rung "
        f"with that at the last epoch is {correlation:.2f} (Spearman; of trials that survived, a biased selection)."
    )
    missed = correlation < WEAK_CORRELATION
    best = results.best_trial
    if best is not None and best.number in rung.index:
        rank = int((rung > rung[best.number]).sum()) + 1
        finding += f" The best trial was {ordinal(rank)} of {len(rung)} at the first rung."
        missed = missed or rank > len(rung) / scheduler.reduction_factor
    if missed:
        return Check(name, "look", finding, f"The first rung says little about the end. {train_some}", command)
    to_measure = "To measure it without the selection: train some of the stopped trials to the end."
    return Check(name, "fine", finding, to_measure, command)


def check_diverged(results: SearchResults) -> Check:
    """Did trials diverge or fail?"""
    name = "Did trials diverge or fail?"
    trials = trained(results)
    if trials.empty:
        return unknown(name, "No trial has begun.")
    ends = endings(trials)
    diverged, failed = trials[ends == Ending.DIVERGED], trials[ends == Ending.FAILED]
    share = (len(diverged) + len(failed)) / len(trials)
    finding = (
        f"{len(diverged)} of {plural(len(trials), 'trial')} diverged and {len(failed)} failed ({percent(share, 0)})."
    )
    if diverged.empty and failed.empty:
        return fine(name, finding)
    verdict: Verdict = "act" if share >= MANY else "look" if share >= SOME or len(failed) else "fine"
    advice, command = [], None
    if len(diverged):
        path, above, high = diverging_rates(results, trials, set(diverged["number"]))
        finding += f" {above}"
        if high is not None:
            advice.append(f"Search with {path} below {shown(high)}.")
            command = new_search(results, {f"space.{path}": with_end(results.space[path], True, high)})
    if len(failed):
        reason, count = Counter(map(last_line, failed["reason"])).most_common(1)[0]
        finding += f" {count} of the {len(failed)} that failed like this: {reason}."
        advice.append("Mend what made trials fail.")
    return Check(
        name, verdict, finding, " ".join(advice) or "Look for what they have in common in trials.csv.", command
    )


def diverging_rates(results: SearchResults, trials: pd.DataFrame, diverged: set[int]) -> tuple[str, str, float | None]:
    """(path, a sentence on the learning rates at which trials diverged, a new upper bound of the space or None).

    The limit is the learning rate that separates best, by Youden's J: the share of those that diverged at or above it
    minus that of the others. Muon's second rate is looked at where the first does not separate them.
    """
    sentence = "Whether that is due to the learning rate cannot be told."

    def above(rates: list[float], limit: float) -> int:
        return sum(rate >= limit for rate in rates)

    for path, rates in RATES.items():
        drawn = [(number, results.params[number].get(path)) for number in trials["number"]]
        bad = [rate for number, rate in drawn if is_number(rate) and number in diverged]
        good = [rate for number, rate in drawn if is_number(rate) and number not in diverged]
        if not bad or not good:
            continue
        separation, limit = max((above(bad, rate) / len(bad) - above(good, rate) / len(good), rate) for rate in bad)
        if separation >= SEPARATED:
            sentence = (
                f"At {rates} of {shown(limit)} and more lie {above(bad, limit)} of the {len(bad)} that "
                f"diverged and {above(good, limit)} of the {len(good)} others."
            )
            return path, sentence, lower_rate(results, path, limit, [rate for rate in good if rate < limit])
        sentence = "No learning rate separates those that diverged from the others."
    return "", sentence, None


def lower_rate(results: SearchResults, path: str, limit: float, below: list[float]) -> float | None:
    """A bound half-way, on a log scale, between what diverged and what did not; None if that narrows nothing.

    The defaults and the best trial stay inside.
    """
    entry = results.space.get(path)
    if entry is None or entry.real is None:
        return None
    best = results.best_trial.params.get(path) if results.best_trial else None
    inside = max(value_at(results.config, path), best if is_number(best) else 0.0)
    half_way = float(f"{(limit * max(below)) ** 0.5:.3g}") if below else 0.0
    high = max(inside, half_way)
    return high if entry.real[0] < high < min(limit, entry.real[1]) else None
