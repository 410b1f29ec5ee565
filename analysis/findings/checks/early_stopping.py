"""Whether the first rung, at which most trials are stopped, foretells the end."""

import pandas as pd

from analysis.evaluating.statistics import spearman
from analysis.findings.checks.check import Check, fine, unknown
from analysis.findings.trials import trained
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import ordinal, percent, plural, run_search
from search.record.endings import Ending

ENOUGH_TO_CORRELATE = 5  # trials trained all epochs
WEAK_CORRELATION = 0.5


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
    command = run_search("--audit", results.place, "--trials", str(min(20, len(stopped)))) if len(stopped) else None
    if audited:
        return Check(
            name,
            "look",
            f"{finding} The audit trained stopped trials to the end: its section says what stopping cost.",
            "Read the section on the audit.",
        )
    if stopped.empty and complete.empty:
        return unknown(name, f"{finding} No trial has ended.")
    if stopped.empty:
        return fine(name, f"{finding} No trial was stopped at a later rung either.")
    rung = accuracy_at(results, first)
    start = rung.reindex(complete["number"])
    end = complete.set_index("number")["val_accuracy"]
    both = start.notna() & end.notna()
    correlation = spearman(start[both], end[both]) if both.sum() >= ENOUGH_TO_CORRELATE else None
    train_some = "Train some of the stopped trials to the end."
    if correlation is None:
        return Check(
            name,
            "unknown",
            f"{finding} Too little to compare the first rung with the last epoch: {int(both.sum())} trials have both, "
            f"{ENOUGH_TO_CORRELATE} that differ are needed.",
            train_some,
            command,
        )
    finding += (
        f" Among {int(both.sum())} trials trained all epochs, the rank correlation of val accuracy at the first rung "
        f"with that at the last epoch is {correlation:.2f} (Spearman; of trials that survived, a biased selection)."
    )
    missed = correlation < WEAK_CORRELATION
    best = results.best_trial
    if best is not None and best.number in rung.index:
        rank = int((rung > rung[best.number]).sum()) + 1
        finding += f" The best trial was {ordinal(rank)} of {len(rung)} at the first rung."
        missed = missed or rank > len(rung) / scheduler.reduction_factor
    if not missed:
        to_measure = "To measure it without the selection: train some of the stopped trials to the end."
        return Check(name, "fine", finding, to_measure, command)
    return Check(name, "look", finding, f"The first rung says little about the end. {train_some}", command)


def accuracy_at(results: SearchResults, epoch: int) -> pd.Series:
    """val_accuracy after an epoch by number, of every own trial that reached it."""
    rows = results.epochs[(results.epochs["epoch"] == epoch) & results.epochs["val_accuracy"].notna()]
    accuracy = rows.set_index("number")["val_accuracy"]
    return accuracy[accuracy.index.isin(trained(results)["number"])]
