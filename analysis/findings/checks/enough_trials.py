"""How many trials are in the good region, and whether the best one was found late."""

import pandas as pd

from analysis.findings.checks.check import Check, Verdict, fine, unknown
from analysis.findings.checks.commands import resume
from analysis.findings.trials import level_with_best, too_few_complete, trained
from analysis.reading.results import SearchResults
from analysis.text import ordinal, plural, points

POINT = 0.01  # trials within it of the best count as the good region
GOOD_REGION = 5  # trials
LATE = 0.75  # of the trials: a best one that came later is a sign of more to find


def check_enough_trials(results: SearchResults) -> Check:
    """Were enough trials trained?"""
    name = "Were enough trials trained?"
    best, trials, equals = results.best_trial, trained(results), level_with_best(results)
    if best is None or equals.empty:
        return unknown(name, too_few_complete(results) + ".")
    near = int((equals["val_accuracy"] >= best.val_accuracy - POINT).sum())
    position = int((trials["number"] <= best.number).sum())
    gain = late_gain(trials, equals)
    finding = (
        f"{near} of {plural(len(equals), 'trial')} with {plural(best.epochs, 'epoch')} "
        f"{'is' if near == 1 else 'are'} within {100 * POINT:.0f} point of the best, trial {best.number}, "
        f"the {ordinal(position)} of {len(trials)} trained. "
    )
    if gain is None:
        finding += "In the first two thirds of the epochs spent no trial had come that far."
    else:
        finding += f"The last third of the epochs spent brought {points(gain)} points."
    running = int((trials["state"] == "RUNNING").sum())
    if running:
        return Check(
            name,
            "unknown",
            f"{finding} {plural(running, 'trial')} {'is' if running == 1 else 'are'} RUNNING: this is not the end.",
            "Let the search end; where it was interrupted, go on with it.",
            resume(results),
        )
    advice, command = search_further(results)
    if len(trials) < GOOD_REGION:
        return Check(name, "unknown", f"{finding} That is too few to judge.", advice, command)
    if best.provisional:
        finding += " No trial was trained all epochs."
    if best.provisional or position > LATE * len(trials):
        verdict: Verdict = "act"
    elif near < GOOD_REGION:
        verdict = "look"
    else:
        return fine(name, finding)
    return Check(name, verdict, finding, advice, command)


def late_gain(trials: pd.DataFrame, equals: pd.DataFrame) -> float | None:
    """By how much the best val accuracy rose in the last third of the epochs spent, in the order in which trials ended.

    None if no trial had come as far as the best one before.
    """
    in_order = trials.sort_values(["finished_at", "number"])  # those without a time come last
    spent = in_order["epochs"].cumsum()
    early = in_order["number"][spent <= spent.max() * 2 / 3]
    before = equals["val_accuracy"][equals["number"].isin(early)]
    return None if before.empty else float(equals["val_accuracy"].max() - before.max())


def search_further(results: SearchResults) -> tuple[str, str]:
    """(advice, command): a search that goes on to its number of trials, or twice as many; or as long again."""
    search = results.settings.search
    if search.num_samples is None:
        time_budget = str(search.time_budget)
        return f"Go on with the same search for another {time_budget}.", resume(results, "--time-budget", time_budget)
    num_trained = len(trained(results))
    if num_trained < search.num_samples:
        advice = f"Go on with the same search: {num_trained} of {search.num_samples} trials were trained."
        return advice, resume(results)
    command = resume(results, "--num-samples", str(2 * num_trained))
    return "Go on with the same search to twice as many trials.", command
