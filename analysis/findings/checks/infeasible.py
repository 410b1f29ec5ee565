"""How many proposals no network can be made of, or above a bound on costs, and why."""

from analysis.findings.checks.check import Check, fine, unknown
from analysis.findings.checks.commands import new_search, with_end
from analysis.findings.checks.widening import ends_of
from analysis.findings.trials import last_line, own_trials
from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import percent, plural
from search.record.endings import Ending, Infeasible
from search.space import SpaceEntry

WASTED, MOSTLY_WASTED = 0.2, 0.5  # share of proposals that are infeasible


def check_infeasible(results: SearchResults) -> Check:
    """Were proposals wasted on impossible networks?"""
    name = "Were proposals wasted on impossible networks?"
    own = own_trials(results)
    if own.empty:
        return unknown(name, "No trial has begun.")
    infeasible = own[endings(own) == Ending.INFEASIBLE]
    share = len(infeasible) / len(own)
    finding = f"{len(infeasible)} of {plural(len(own), 'proposal')} ({percent(share, 0)}) were infeasible"
    if infeasible.empty:
        return fine(name, finding + ".")
    reasons = dict(zip(infeasible["number"], map(last_line, infeasible["reason"]), strict=True))
    groups: dict[str, list[int]] = {}  # trial numbers by kind, or by reason if the journal is older than kinds
    for number, reason in reasons.items():
        why = results.infeasible.get(number)
        groups.setdefault(reason if why is None else why.kind, []).append(number)
    alike = max(groups.values(), key=len)
    finding += f", {len(alike)} of them like this: {reasons[alike[0]]}. They cost no training."
    if share < WASTED:
        return fine(name, finding)
    advice, command = what_to_change(results, results.infeasible.get(alike[0]), set(infeasible["number"]))
    return Check(name, "act" if share >= MOSTLY_WASTED else "look", finding, advice, command)


def what_to_change(results: SearchResults, why: Infeasible | None, infeasible: set[int]) -> tuple[str, str | None]:
    """(advice, command) against what most proposals were refused for; None: it was recorded in words only."""
    if why is None:
        return "The reasons are in trials.csv.", None
    if why.bound is not None:
        advice = (
            f"Raise search.{why.kind} if you can afford such networks, or narrow the space: widths and depth first."
        )
        return advice, new_search(results, {f"search.{why.kind}": 2 * why.bound})
    shallower = shallower_depth(results, infeasible)
    if shallower is None:
        return "Take the values that do not fit together out of the space.", None
    advice = "Leave out the largest depth, at which most proposals are infeasible."
    return advice, new_search(results, {"space.model.depth": shallower})


def shallower_depth(results: SearchResults, infeasible: set[int]) -> SpaceEntry | None:
    """The entry of model.depth without its largest value; None unless most proposals with it are infeasible."""
    entry = results.space.get("model.depth")
    ends = ends_of(entry)
    if entry is None or ends is None:
        return None
    deepest = [number for number, params in results.params.items() if params.get("model.depth") == ends.high]
    wasted = sum(number in infeasible for number in deepest)
    best = results.best_trial.params.get("model.depth", 0) if results.best_trial else 0
    is_needed = max(results.config.model.depth, best) >= ends.high
    if not deepest or wasted < MOSTLY_WASTED * len(deepest) or is_needed:
        return None
    if entry.choice is not None:
        return entry.model_copy(update={"choice": tuple(choice for choice in entry.choice if choice != ends.high)})
    return with_end(entry, True, ends.high - int(entry.step or 1))
