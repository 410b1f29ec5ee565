"""Checks of a search, each with what to run next. Pure functions of results.

The questions are those of the "Deep Learning Tuning Playbook" (Godbole, Dahl, Gilmer, Shallue and Nado, 2023). The
thresholds are rules of thumb.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeGuard

import pandas as pd
import yaml

from analysis.reading.results import SearchResults
from analysis.text import percent, plural, points, run_search, shown
from training.costs import count_costs
from training.errors import ConfigError
from training.geometry import InfeasibleError

Verdict = Literal["act", "look", "unknown", "fine"]
VERDICTS: tuple[Verdict, ...] = ("act", "look", "unknown", "fine")  # what needs action first
TOP = 5  # trials whose hyperparameters are looked at
EDGE = 0.1  # of a range, on the scale on which it is drawn
CHANCE = 0.05  # a uniform draw puts this many trials at an end less often than that
FEWEST = 3  # trials at equal epochs from which an edge is judged
POINT = 0.01  # trials within it of the best count as the good region
GOOD_REGION = 5  # trials
LATE = 0.75  # of the trials: a best one that came later is a sign of more to find
ENOUGH_TO_CORRELATE = 5  # trials trained all epochs
WEAK_CORRELATION = 0.5
RISING = 0.005  # gain of the last two epochs
SMALL_GAP = 0.05  # train minus val accuracy: below, the network has not fitted its training images
OVERFITTED = 1.05  # val loss at the end over its minimum
SOME, MANY = 0.05, 0.2  # share of trials that diverged or failed
SEPARATED = 0.5  # Youden's J of a learning rate above which trials diverge
WASTED, MOSTLY_WASTED = 0.2, 0.5  # share of proposals that are infeasible
EXTENSIONS = (1 / 3, 1 / 6, 1 / 12, 1 / 24, 1 / 48)  # of a range, the first one legal is proposed
Z_95 = 1.96
NUM_CLASSES = 10  # for costs; that of the classifier is a small part


@dataclass(frozen=True)
class Check:
    """One question to a search. `command` is a line for a shell, or None where none would help."""

    name: str
    verdict: Verdict
    finding: str
    advice: str
    command: str | None = None


@dataclass(frozen=True)
class Edge:
    """An end of a range at which the best trial and several of the top ones sit."""

    name: str  # of the param: with the layer where there is a value per layer
    path: str  # of the space's entry
    is_high: bool
    end: float
    near: int  # of the top trials
    having: int  # top trials for which the param was drawn


def checks(
    results: SearchResults, n_val: int | None = None, audited: bool = False, confirmed: bool = False
) -> list[Check]:
    """Every check of a search, what needs action first.

    n_val: images in the val split; without it the winner is not compared with the runner-up. audited, confirmed:
    whether there are results of `run_search.py --audit` and `--confirm`, which say more than the search itself.
    """
    found = [
        check_edges(results),
        check_enough_trials(results),
        check_early_stopping(results, audited),
        check_epochs(results),
        check_diverged(results),
        check_infeasible(results),
    ]
    if n_val:
        found.append(check_winner(results, n_val, confirmed))
    return sorted(found, key=lambda check: VERDICTS.index(check.verdict))


def check_edges(results: SearchResults) -> Check:
    """Whether the best trials sit at an end of the space, and how far it can be widened."""
    name = "Is the best trial at an edge of the space?"
    top = [int(number) for number in level_with_best(results)["number"].head(TOP)]
    if results.best_trial is None or results.best_trial.provisional or len(top) < FEWEST:
        return unknown(name, f"{too_few_complete(results)}; an edge is judged from {FEWEST}.")
    bounds: dict[tuple[str, bool], float] = {}
    edges, fixed = [], []
    for edge in find_edges(results, results.best_trial.params, [results.params[number] for number in top]):
        bound, obstacle = beyond(results, edge)
        where = f"{edge.name} ({'high' if edge.is_high else 'low'} end {shown(edge.end)}"
        if bound is None:
            fixed.append(f"{where}; {obstacle})")
            continue
        edges.append(f"{where}; {edge.near} of {edge.having})")
        key = (edge.path, edge.is_high)  # of layers with one entry the one that gets furthest counts
        bounds[key] = (max if edge.is_high else min)(bound, bounds.get(key, bound))
    stop = f" At an end that cannot be moved: {', '.join(fixed)}." if fixed else ""
    if not edges:
        finding = f"The {len(top)} best trials do not gather at an end that could be moved.{stop}"
        return Check(name, "fine", finding, "Nothing to do.")
    wider: dict[str, Any] = {}
    for (path, is_high), bound in bounds.items():
        wider[f"space.{path}"] = widened(wider.get(f"space.{path}", written_space(results)[path]), is_high, bound)
    changes = ", ".join(f"{path} to {shown(bound)}" for (path, _), bound in bounds.items())
    gathered = f"The best trial, and more of the {len(top)} best than chance explains, lie at an end"
    return Check(
        name,
        "act",
        f"{gathered}: {', '.join(edges)}.{stop}",
        f"Search a wider space, starting from what is known: {changes}.",
        new_search(results, wider),
    )


def check_enough_trials(results: SearchResults) -> Check:
    """How many trials are in the good region, and whether the best one was found late."""
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
        return Check(name, "fine", finding, "Nothing to do.")
    return Check(name, verdict, finding, advice, command)


def check_early_stopping(results: SearchResults, audited: bool = False) -> Check:
    """Whether the first rung, at which most trials are stopped, foretells the end."""
    name = "Was early stopping too hard?"
    scheduler = section(results, "scheduler")
    first, epochs = int(number_in(scheduler, "grace_epochs", 1)), results.config.train.epochs
    if scheduler.get("name", "asha") == "none" or first >= epochs:
        return Check(name, "fine", "No trial could be stopped early in this search.", "Nothing to do.")
    trials = trained(results)
    stopped = trials[trials["stopped_by"] == "asha"]
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
        return Check(name, "fine", f"{finding} No trial was stopped at a later rung either.", "Nothing to do.")
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
        missed = missed or rank > len(rung) / number_in(scheduler, "reduction_factor", 3.0)
    if not missed:
        return Check(name, "fine", finding, f"To measure it without the selection: {lower_first(train_some)}", command)
    return Check(name, "look", finding, f"The first rung says little about the end. {train_some}", command)


def check_epochs(results: SearchResults) -> Check:
    """Whether the best trial was trained too short, or overfits."""
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
        return Check(name, "fine", f"{finding} Val accuracy has settled and val loss has not risen.", "Nothing to do.")
    command = new_search(results, {"train.epochs": 2 * epochs})
    return Check(
        name,
        "act" if gap < SMALL_GAP else "look",
        f"{finding} It was still improving" + (" and has not fitted its training images." if gap < SMALL_GAP else "."),
        f"Search with {2 * epochs} epochs. Accuracies do not compare with those after {epochs}, so the sampler starts "
        "afresh, but the best configurations of this search come first.",
        command,
    )


def check_diverged(results: SearchResults) -> Check:
    """How many trials diverged or failed, and above which learning rate."""
    name = "Did trials diverge or fail?"
    trials = trained(results)
    if trials.empty:
        return unknown(name, "No trial has begun.")
    diverged, failed = trials[trials["stopped_by"] == "diverged"], trials[trials["state"] == "FAIL"]
    share = (len(diverged) + len(failed)) / len(trials)
    finding = (
        f"{len(diverged)} of {plural(len(trials), 'trial')} diverged and {len(failed)} failed ({percent(share, 0)})."
    )
    if diverged.empty and failed.empty:
        return Check(name, "fine", finding, "Nothing to do.")
    verdict: Verdict = "act" if share >= MANY else "look" if share >= SOME or len(failed) else "fine"
    advice, command = [], None
    if len(diverged):
        above, high = diverging_rates(results, trials, set(diverged["number"]))
        finding += f" {above}"
        if high is not None:
            advice.append(f"Search below a learning rate of {shown(high)}.")
            entry = widened(written_space(results)["optimizer.learning_rate"], True, high)
            command = new_search(results, {"space.optimizer.learning_rate": entry})
    if len(failed):
        reason, count = commonest(failed["reason"])
        finding += f" {count} of the {len(failed)} that failed like this: {reason}."
        advice.append("Mend what made trials fail.")
    return Check(
        name, verdict, finding, " ".join(advice) or "Look for what they have in common in trials.csv.", command
    )


def check_infeasible(results: SearchResults) -> Check:
    """How many proposals no network can be made of, or above a bound on costs, and why."""
    name = "Were proposals wasted on impossible networks?"
    own = own_trials(results)
    if own.empty:
        return unknown(name, "No trial has begun.")
    infeasible = own[own["stopped_by"] == "infeasible"]
    share = len(infeasible) / len(own)
    finding = f"{len(infeasible)} of {plural(len(own), 'proposal')} ({percent(share, 0)}) were infeasible"
    if infeasible.empty:
        return Check(name, "fine", finding + ".", "Nothing to do.")
    reason, count = commonest(infeasible["reason"])
    finding += f", {count} of them like this: {reason}. They cost no training."
    if share < WASTED:
        return Check(name, "fine", finding, "Nothing to do.")
    verdict: Verdict = "act" if share >= MOSTLY_WASTED else "look"
    bound = re.search(r"> search\.(max_\w+) ([\d,]+)", reason)
    if bound:
        key, value = f"search.{bound[1]}", int(bound[2].replace(",", ""))
        advice = f"Raise {key} if you can afford such networks, or narrow the space: widths and depth first."
        return Check(name, verdict, finding, advice, new_search(results, {key: 2 * value}))
    shallower = shallower_depth(results, set(infeasible["number"]))
    if shallower is None:
        return Check(name, verdict, finding, "Take the values that do not fit together out of the space.")
    advice = "Leave out the largest depth, at which most proposals are infeasible."
    return Check(name, verdict, finding, advice, new_search(results, {"space.model.depth": shallower}))


def check_winner(results: SearchResults, n_val: int, confirmed: bool = False) -> Check:
    """Whether n_val images tell the best trial from the runner-up."""
    name = "Is the winner better than the runner-up?"
    best, equals = results.best_trial, level_with_best(results)
    others = equals[equals["number"] != best.number] if best is not None else equals
    if best is None or others.empty:
        return unknown(name, "There are no two trials with equal epochs to compare.")
    second = others.iloc[0]
    differences = best.val_accuracy - others["val_accuracy"]
    variance = best.val_accuracy * (1 - best.val_accuracy) + others["val_accuracy"] * (1 - others["val_accuracy"])
    errors = (variance / n_val) ** 0.5
    close = int((differences <= Z_95 * errors).sum())
    finding = (
        f"Trial {best.number} leads trial {int(second['number'])} by {points(float(differences.iloc[0]))} points after "
        f"{plural(best.epochs, 'epoch')} each; the lead's standard error is {100 * errors.iloc[0]:.2f} points "
        f"(n = {n_val:,} val images, taken as two independent samples). {close} of the {len(others)} others "
        f"{'is' if close == 1 else 'are'} within {Z_95} standard errors."
    )
    if confirmed:
        return Check(
            name,
            "fine" if close == 0 else "look",
            f"{finding} The best were trained again with other seeds: see the section on the confirmation.",
            "Take the winner of the confirmation.",
        )
    command = run_search("--confirm", results.place)
    if close == 0:
        return Check(
            name, "fine", finding, "What another seed would give is not known; train the best ones again.", command
        )
    return Check(
        name, "look", finding, "Train the best ones again with other seeds before one is called best.", command
    )


def unknown(name: str, why: str) -> Check:
    return Check(name, "unknown", why, "Nothing can be said yet.")


def too_few_complete(results: SearchResults) -> str:
    complete = int((trained(results)["state"] == "COMPLETE").sum())
    return f"Too little to judge: {plural(complete, 'trial')} {'is' if complete == 1 else 'are'} COMPLETE"


def section(results: SearchResults, name: str) -> dict[str, Any]:
    """A section of search.yaml; {} where there is none."""
    values = results.settings.get(name)
    return values if isinstance(values, dict) else {}


def number_in(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key)
    return float(value) if is_number(value) else default


def own_trials(results: SearchResults) -> pd.DataFrame:
    """Trials of this search: none taken over from an earlier one."""
    trials = results.trials
    return trials[trials["source"].isna()] if "source" in trials.columns else trials


def trained(results: SearchResults) -> pd.DataFrame:
    """Trials that were or are being trained, by number."""
    trials = own_trials(results)
    never_began = (trials["stopped_by"] == "time_budget") & (trials["epochs"] == 0)
    return trials[(trials["stopped_by"] != "infeasible") & ~never_began].sort_values("number")


def level_with_best(results: SearchResults) -> pd.DataFrame:
    """Ended trials with as many epochs as the best one, by val accuracy; empty where that one has none."""
    trials = trained(results)
    epochs = results.best_trial.epochs if results.best_trial else -1
    ended = trials["state"].isin(["COMPLETE", "PRUNED"]) & (trials["stopped_by"] != "diverged")
    equals = trials[ended & (trials["epochs"] == epochs) & trials["val_accuracy"].notna()]
    if results.best_trial is None or results.best_trial.number not in set(equals["number"]):
        return equals.head(0)
    return equals.sort_values(["val_accuracy", "number"], ascending=[False, True])


def accuracy_at(results: SearchResults, epoch: int) -> pd.Series:
    """val_accuracy after an epoch by number, of every own trial that reached it."""
    rows = results.epochs[(results.epochs["epoch"] == epoch) & results.epochs["val_accuracy"].notna()]
    accuracy = rows.set_index("number")["val_accuracy"]
    return accuracy[accuracy.index.isin(trained(results)["number"])]


def late_gain(trials: pd.DataFrame, equals: pd.DataFrame) -> float | None:
    """By how much the best val accuracy rose in the last third of the epochs spent, in the order in which trials ended.

    None where no trial had come as far as the best one before.
    """
    in_order = trials.sort_values(["finished_at", "number"])  # those without a time come last
    spent = in_order["epochs"].cumsum()
    early = in_order["number"][spent <= spent.max() * 2 / 3]
    before = equals["val_accuracy"][equals["number"].isin(early)]
    return None if before.empty else float(equals["val_accuracy"].max() - before.max())


def spearman(one: pd.Series, other: pd.Series) -> float | None:
    """Rank correlation; None where one of the two is constant."""
    if one.nunique() < 2 or other.nunique() < 2:
        return None
    return float(one.rank().corr(other.rank()))


def written_space(results: SearchResults) -> dict[str, Any]:
    """The space as search.yaml has it."""
    return results.settings.get("space") or {}


def commonest(reasons: Iterable[Any]) -> tuple[str, int]:
    """(a reason of the commonest kind, how many there are): the last lines count, and within a kind numbers differ."""
    lines = [
        reason.strip().splitlines()[-1].strip() if isinstance(reason, str) and reason.strip() else "no reason was kept"
        for reason in reasons
    ]
    kinds = [re.sub(r"\d[\d,]*", "#", line) for line in lines]
    kind, count = Counter(kinds).most_common(1)[0]
    return lines[kinds.index(kind)].rstrip(".")[:200], count


def find_edges(results: SearchResults, best: Mapping[str, Any], top: list[dict[str, Any]]) -> Iterator[Edge]:
    """Ends at which the best trial sits, with half of the top ones and more than a uniform draw would put there."""
    for name, value in best.items():
        path = name if name in written_space(results) else name.rpartition(".")[0]
        ends = ends_of(written_space(results).get(path))
        if ends is None or not is_number(value):
            continue
        values = [params[name] for params in top if is_number(params.get(name))]
        for is_high in (False, True):
            near = sum(is_near(each, ends, is_high) for each in values)
            if not is_near(value, ends, is_high) or 2 * near < len(top):
                continue
            if at_least(near, len(values), ends.chance) <= CHANCE:
                yield Edge(name, path, is_high, ends.high if is_high else ends.low, near, len(values))


@dataclass(frozen=True)
class Ends:
    """The ends of an ordered range; `chance` is that of a uniform draw to be near one of them."""

    low: float
    high: float
    log: bool
    reach: float  # what is near, as a share of the range
    chance: float


def ends_of(entry: Any) -> Ends | None:
    """The ends of a space's entry; None where its values have no order, or there is but one."""
    if not isinstance(entry, Mapping):
        return None
    choices = entry.get("choice")
    if choices:
        if not all(map(is_number, choices)) or len(set(choices)) < 2:
            return None
        return Ends(min(choices), max(choices), False, 0.0, 1 / len(set(choices)))
    low, high = entry.get("int") or entry.get("float") or (0, 0)
    if not low < high:
        return None
    step = entry.get("step") or (1 if "int" in entry else 0)
    num_values = math.floor((high - low) / step + 1e-9) + 1 if step else math.inf
    return Ends(low, high, bool(entry.get("log")), EDGE, max(EDGE, 1 / num_values))


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_near(value: float, ends: Ends, is_high: bool) -> bool:
    low, high, value = (math.log(each) if ends.log else each for each in (ends.low, ends.high, value))
    distance = (high - value if is_high else value - low) / (high - low)
    return distance <= ends.reach + 1e-9


def at_least(count: int, trials: int, chance: float) -> float:
    """The probability of at least `count` successes in so many trials (binomial)."""
    return sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(count, trials + 1))


def beyond(results: SearchResults, edge: Edge) -> tuple[float | None, str]:
    """(a new bound that is legal, with the best trial's other settings, or None; what is in the way)."""
    obstacle = ""
    for bound in further_bounds(written_space(results)[edge.path], edge.is_high):
        obstacle = why_not(results, edge.name, bound)
        if not obstacle:
            return bound, ""
    return None, obstacle or "no value beyond"


def further_bounds(entry: Mapping[str, Any], is_high: bool) -> Iterator[float]:
    """Values beyond an end, the furthest first: a share of a range on its scale, or the next step of choices."""
    if entry.get("choice"):
        yield from next_choices(sorted(set(entry["choice"]), reverse=not is_high))
        return
    low, high = entry.get("int") or entry["float"]
    end, sign = (high, 1) if is_high else (low, -1)
    step = entry.get("step") or (1 if "int" in entry and not entry.get("log") else None)
    for share in EXTENSIONS:
        bound = end * (high / low) ** (sign * share) if entry.get("log") else end + sign * share * (high - low)
        if step:
            bound = end + sign * step * max(1, round(abs(bound - end) / step))
        bound = round(bound) if "int" in entry else float(f"{bound:.6g}" if step else f"{bound:.3g}")
        if sign * (bound - end) > 0:
            yield bound


def next_choices(values: list[float]) -> Iterator[float]:
    """What may follow numbers in order: by their ratio where three or more have one, else by the last difference."""
    last, before = values[-1], values[-2]
    ratios = {round(b / a, 6) for a, b in pairwise(values) if a}
    by_ratio = [last * last / before] if before and last / before > 0 else []
    by_difference: list[float] = [last + (last - before)]
    is_geometric = len(values) > 2 and 0 not in values and len(ratios) == 1
    for value in by_ratio + by_difference if is_geometric else by_difference + by_ratio:
        if not all(isinstance(each, int) for each in values):
            yield float(f"{value:.6g}")
        elif value == int(value):
            yield int(value)


def why_not(results: SearchResults, name: str, value: float) -> str:
    """What is wrong with a value in the place of the best trial's; empty where nothing is."""
    assert results.best_trial is not None
    try:
        config = results.config.override({**results.best_trial.params, name: value})
        size = config.data.image_size
        num_params, multiply_adds = count_costs(config.model, (3, size, size), NUM_CLASSES)
    except ConfigError:
        return "no value beyond is legal"
    except InfeasibleError:
        return "beyond it the network is impossible"
    search = section(results, "search")
    for bound, cost in (("max_params", num_params), ("max_multiply_adds", multiply_adds)):
        if cost > number_in(search, bound, math.inf):
            return f"beyond it the network exceeds search.{bound}"
    return ""


def widened(entry: Mapping[str, Any], is_high: bool, bound: float) -> dict[str, Any]:
    """A space's entry with one end moved."""
    changed = dict(entry)
    if entry.get("choice"):
        changed["choice"] = [*entry["choice"], bound] if is_high else [bound, *entry["choice"]]
        return changed
    kind = "int" if "int" in entry else "float"
    low, high = entry[kind]
    changed[kind] = [low, bound] if is_high else [bound, high]
    return changed


def regularisation(results: SearchResults) -> dict[str, Any]:
    """Entries for regularisers that the space lacks and whose defaults they hold, as paths to set."""
    base = results.config
    found: dict[str, Any] = {}
    for path, default, highest in (
        ("model.dropout", base.model.dropout, 0.5),
        ("train.label_smoothing", base.train.label_smoothing, 0.2),
    ):
        if path not in written_space(results) and default <= highest:
            found[f"space.{path}"] = {"float": [0.0, highest]}
    if "data.cutout" not in written_space(results) and base.data.cutout == 0:
        found["space.data.cutout"] = {"choice": [0, base.data.image_size // 4]}
    return found


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
    """A bound half-way, on a log scale, between what diverged and what did not; None where that narrows nothing.

    The defaults and the best trial stay inside.
    """
    entry = written_space(results).get("optimizer.learning_rate")
    if not isinstance(entry, Mapping) or "float" not in entry:
        return None
    best = results.best_trial.params.get("optimizer.learning_rate") if results.best_trial else None
    inside = max(results.config.optimizer.learning_rate, best if is_number(best) else 0.0)
    half_way = float(f"{(limit * max(below)) ** 0.5:.3g}") if below else 0.0
    high = max(inside, half_way)
    return high if entry["float"][0] < high < min(limit, entry["float"][1]) else None


def shallower_depth(results: SearchResults, infeasible: set[int]) -> dict[str, Any] | None:
    """The entry of model.depth without its largest value; None unless most proposals with it are infeasible."""
    entry = written_space(results).get("model.depth")
    ends = ends_of(entry)
    if entry is None or ends is None:
        return None
    depths = {number: params.get("model.depth") for number, params in results.params.items()}
    deepest = [number for number, depth in depths.items() if depth == ends.high]
    wanted = [results.config.model.depth, results.best_trial.params.get("model.depth", 0) if results.best_trial else 0]
    wasted = sum(number in infeasible for number in deepest)
    if not deepest or wasted < MOSTLY_WASTED * len(deepest) or max(wanted) >= ends.high:
        return None
    if entry.get("choice"):
        return {**entry, "choice": [choice for choice in entry["choice"] if choice != ends.high]}
    return widened(entry, True, ends.high - int(entry.get("step") or 1))


def new_search(results: SearchResults, values: Mapping[str, Any]) -> str:
    """The command for a new search that differs in some paths and starts from what this one knows."""
    settings = [part for path, value in values.items() for part in ("--set", f"{path}={as_yaml(value)}")]
    return run_search("--config", results.file("search.yaml"), "--warm-start", results.place, *settings)


def resume(results: SearchResults) -> str:
    return run_search("--resume", results.place)


def search_further(results: SearchResults) -> tuple[str, str]:
    """(advice, command): a search that goes on to its number of trials, or twice as many; or as long again."""
    search = section(results, "search")
    if search.get("num_samples", 50) is None:
        time_budget = str(search.get("time_budget"))
        command = run_search("--resume", results.place, "--time-budget", time_budget)
        return f"Go on with the same search for another {time_budget}.", command
    num_trained, num_samples = len(trained(results)), number_in(search, "num_samples", 50)
    if num_trained < num_samples:
        return f"Go on with the same search: {num_trained} of {num_samples:.0f} trials were trained.", resume(results)
    command = run_search("--resume", results.place, "--num-samples", str(2 * num_trained))
    return "Go on with the same search to twice as many trials.", command


def as_yaml(value: Any) -> str:
    """A value in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, `11th`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
