"""Whether the best trial can be relied on: how many trials come near it, and whether val images tell it from them."""

import pandas as pd

from analysis.evaluating.statistics import Z_95
from analysis.findings.checks.check import Check, Verdict, fine, unknown
from analysis.findings.trials import level_with_best, too_few_complete, trained
from analysis.reading.results import SearchResults
from analysis.text import ordinal, plural, points, run_search

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
            run_search("--resume", results.place),
        )
    if len(trials) < GOOD_REGION:
        return Check(name, "unknown", f"{finding} That is too few to judge.", *search_further(results, len(trials)))
    if best.provisional:
        finding += " No trial was trained all epochs."
    is_late = best.provisional or position > LATE * len(trials)
    if near >= GOOD_REGION and not is_late:
        return fine(name, finding)
    verdict: Verdict = "act" if is_late else "look"
    return Check(name, verdict, finding, *search_further(results, len(trials)))


def late_gain(trials: pd.DataFrame, equals: pd.DataFrame) -> float | None:
    """By how much the best val accuracy rose in the last third of the epochs spent, in the order in which trials ended.

    None if no trial had come as far as the best one before.
    """
    in_order = trials.sort_values(["finished_at", "number"])  # those without a time come last
    spent = in_order["epochs"].cumsum()
    early = in_order["number"][spent <= spent.max() * 2 / 3]
    before = equals["val_accuracy"][equals["number"].isin(early)]
    return None if before.empty else float(equals["val_accuracy"].max() - before.max())


def search_further(results: SearchResults, num_trained: int) -> tuple[str, str]:
    """(advice, command): a search that goes on to its number of trials, or twice as many; or as long again."""
    search, resume = results.settings.search, ("--resume", results.place)
    if search.num_samples is None:
        time_budget = str(search.time_budget)
        advice = f"Go on with the same search for another {time_budget}."
        return advice, run_search(*resume, "--time-budget", time_budget)
    if num_trained < search.num_samples:
        advice = f"Go on with the same search: {num_trained} of {search.num_samples} trials were trained."
        return advice, run_search(*resume)
    command = run_search(*resume, "--num-samples", str(2 * num_trained))
    return "Go on with the same search to twice as many trials.", command


def check_winner(results: SearchResults, n_val: int, confirmed: bool = False) -> Check:
    """Is the winner better than the runner-up, by n_val images?"""
    name = "Is the winner better than the runner-up?"
    best, equals = results.best_trial, level_with_best(results)
    others = equals[equals["number"] != best.number] if best is not None else equals
    if best is None or others.empty:
        return unknown(name, "There are no two trials with equal epochs to compare.")
    differences = best.val_accuracy - others["val_accuracy"]
    variance = best.val_accuracy * (1 - best.val_accuracy) + others["val_accuracy"] * (1 - others["val_accuracy"])
    errors = (variance / n_val) ** 0.5
    close = int((differences <= Z_95 * errors).sum())
    verdict: Verdict = "look" if close else "fine"
    finding = (
        f"Trial {best.number} leads trial {others['number'].iloc[0]} by {points(float(differences.iloc[0]))} points "
        f"after {plural(best.epochs, 'epoch')} each; the lead's standard error is {100 * errors.iloc[0]:.2f} points "
        f"(n = {n_val:,} val images, taken as two independent samples). {close} of the {len(others)} others "
        f"{'is' if close == 1 else 'are'} within {Z_95:.2f} standard errors."
    )
    if confirmed:
        finding += " The best were trained again with other seeds: see the section on the confirmation."
        return Check(name, verdict, finding, "Take the winner of the confirmation.")
    advice = "What another seed would give is not known; train the best ones again."
    if close:
        advice = "Train the best ones again with other seeds before one is called best."
    return Check(name, verdict, finding, advice, run_search("--confirm", results.place))
