"""How many trials diverged or failed, and above which learning rate."""

from collections import Counter

import pandas as pd

from analysis.findings.checks.check import Check, Verdict, fine, unknown
from analysis.findings.checks.commands import new_search, with_end
from analysis.findings.checks.widening import is_number
from analysis.findings.trials import last_line, trained
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import percent, plural, shown
from search.record.endings import Ending

SOME, MANY = 0.05, 0.2  # share of trials that diverged or failed
SEPARATED = 0.5  # Youden's J of a learning rate above which trials diverge


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
        above, high = diverging_rates(results, trials, set(diverged["number"]))
        finding += f" {above}"
        if high is not None:
            advice.append(f"Search below a learning rate of {shown(high)}.")
            entry = with_end(results.space["optimizer.learning_rate"], True, high)
            command = new_search(results, {"space.optimizer.learning_rate": entry})
    if len(failed):
        reason, count = Counter(map(last_line, failed["reason"])).most_common(1)[0]
        finding += f" {count} of the {len(failed)} that failed like this: {reason}."
        advice.append("Mend what made trials fail.")
    return Check(
        name, verdict, finding, " ".join(advice) or "Look for what they have in common in trials.csv.", command
    )


def diverging_rates(results: SearchResults, trials: pd.DataFrame, diverged: set[int]) -> tuple[str, float | None]:
    """(a sentence on the learning rates at which trials diverged, a new upper bound of the space or None).

    The limit is the learning rate that separates best, by Youden's J: the share of those that diverged at or above it
    minus that of the others.
    """
    drawn = [(number, results.params[number].get("optimizer.learning_rate")) for number in trials["number"]]
    bad = [rate for number, rate in drawn if is_number(rate) and number in diverged]
    good = [rate for number, rate in drawn if is_number(rate) and number not in diverged]
    if not bad or not good:
        return "Whether that is due to the learning rate cannot be told.", None
    separation, limit = max((share_above(bad, rate) - share_above(good, rate), rate) for rate in bad)
    if separation < SEPARATED:
        return "No learning rate separates those that diverged from the others.", None
    sentence = (
        f"At learning rates of {shown(limit)} and more lie {sum(rate >= limit for rate in bad)} of the {len(bad)} that "
        f"diverged and {sum(rate >= limit for rate in good)} of the {len(good)} others."
    )
    return sentence, lower_rate(results, limit, [rate for rate in good if rate < limit])


def share_above(rates: list[float], limit: float) -> float:
    return sum(rate >= limit for rate in rates) / len(rates)


def lower_rate(results: SearchResults, limit: float, below: list[float]) -> float | None:
    """A bound half-way, on a log scale, between what diverged and what did not; None if that narrows nothing.

    The defaults and the best trial stay inside.
    """
    entry = results.space.get("optimizer.learning_rate")
    if entry is None or entry.real is None:
        return None
    best = results.best_trial.params.get("optimizer.learning_rate") if results.best_trial else None
    inside = max(results.config.optimizer.learning_rate, best if is_number(best) else 0.0)
    half_way = float(f"{(limit * max(below)) ** 0.5:.3g}") if below else 0.0
    high = max(inside, half_way)
    return high if entry.real[0] < high < min(limit, entry.real[1]) else None
