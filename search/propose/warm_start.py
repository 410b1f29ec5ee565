"""`--warm-start`: the trials of earlier searches inform the sampler, and their best configurations come first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from search.config import SearchConfig
from search.propose.earlier import EarlierSearch, EarlierTrial, map_trial, read_search
from search.record.endings import SOURCE
from search.record.run_directory import SearchError
from search.record.run_storage import RunStorage
from search.record.storage import is_url
from training.errors import ConfigError

BEST_FIRST = 3  # configurations of earlier searches that are trained right after trial 0
DONE = "warm_start"  # user attribute of the study, written last: the lines that were printed


def check_earlier(config: SearchConfig) -> None:
    """Make sure that all of search.warm_start can be read. Raises ConfigError with every run that cannot."""
    errors = []
    for run in config.search.warm_start:
        try:
            read_search(RunStorage(run), config)
        except SearchError as error:
            errors.append(f"--warm-start: {error}")
    if errors:
        raise ConfigError(errors)


def warm_start(study: optuna.Study, config: SearchConfig, num_classes: int, resume: bool = False) -> list[str]:
    """Take over what search.warm_start names into a study that holds trial 0; gives lines that say what was done.

    Nothing where that was done before; goes on where a crash cut it off. Raises SearchError.
    """
    if not config.search.warm_start or DONE in study.user_attrs:
        return []
    urls = [run for run in config.search.warm_start if is_url(run)]
    if resume and urls:  # a run directory may come from elsewhere: what it names is not connected to
        raise SearchError(f"the warm start from {urls[0]} was cut off. Start a new search: --warm-start {urls[0]}")
    searches = [read_search(RunStorage(run), config) for run in config.search.warm_start]
    space = config.search_space
    mapped = [[map_trial(trial, search, config, space, num_classes) for trial in search.trials] for search in searches]
    first = best_configurations(searches, mapped, config)
    for each in first:
        if each.params is not None:
            study.enqueue_trial(each.params, user_attrs={"configuration_of": each.source}, skip_if_exists=True)
    lines = []
    seen: set[tuple[str, Any]] = set()
    for search, trials in zip(searches, mapped, strict=True):
        if not search.incomparable:
            add_trials(study, [each for each in trials if not each.reasons], space.distributions())
        lines += report(search, trials, seen)
        seen |= {each.identity for each in trials}
    if not config.sampler.learns:
        lines.append(f"The {config.sampler.name} sampler learns from none of them")
    lines += report_first(first)
    study.set_user_attr(DONE, lines)
    return lines


def best_configurations(
    searches: Sequence[EarlierSearch], mapped: Sequence[list[EarlierTrial]], config: SearchConfig
) -> list[EarlierTrial]:
    """The best COMPLETE trials with distinct params, trial 0's left out; no more than the search has trials left.

    Searches whose accuracies do not compare take turns; those that compare with this one begin.
    """
    groups: dict[tuple[str, ...], list[EarlierTrial]] = {(): []}
    for search, trials in zip(searches, mapped, strict=True):
        complete = [each for each in trials if each.trial.state == TrialState.COMPLETE]
        groups.setdefault(search.incomparable, []).extend(complete)
    rankings = (sorted(group, key=lambda each: each.trial.value or 0.0, reverse=True) for group in groups.values())
    known, first = [config.search_space.default_params()], []
    for each in chain.from_iterable(zip_longest(*rankings)):
        if each is not None and each.params is not None and each.params not in known:
            known.append(each.params)
            first.append(each)
    num_samples = config.search.num_samples
    return first[: BEST_FIRST if num_samples is None else min(BEST_FIRST, num_samples - 1)]


def add_trials(
    study: optuna.Study, trials: Sequence[EarlierTrial], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Add trials as they ended, with where they come from; those that the study holds already are left out."""
    present = {(trial.user_attrs.get(SOURCE), trial.datetime_start) for trial in study.get_trials(deepcopy=False)}
    for each in trials:
        if each.params is None or each.identity in present:
            continue
        added = optuna.trial.create_trial(
            state=each.trial.state,
            value=each.trial.value,
            params=each.params,
            distributions={name: distributions[name] for name in each.params},
            intermediate_values=each.trial.intermediate_values,
            user_attrs={**each.trial.user_attrs, SOURCE: each.source},
        )
        added.datetime_start, added.datetime_complete = each.trial.datetime_start, each.trial.datetime_complete
        study.add_trial(added)


def report(search: EarlierSearch, trials: Sequence[EarlierTrial], seen: set[tuple[str, Any]]) -> list[str]:
    """How many trials of an earlier search inform the sampler, and why the others do not."""
    if search.incomparable:
        why = "; ".join(search.incomparable)
        return [f"{search.name}: no trial informs the sampler, for its accuracies do not compare: {why}"]
    reasons: Counter[str] = Counter()
    num_informing = 0
    for each in trials:
        why_not = {"taken over from a run named before"} if each.identity in seen else set(each.reasons)
        reasons.update(why_not)
        num_informing += not why_not
    head = f"{search.name}: {num_informing} of {len(trials)} trials inform the sampler"
    if not reasons:
        return [head]
    several = " (a trial can have several reasons)" if reasons.total() > len(trials) - num_informing else ""
    counted = [f"  {count} trial{'s' * (count > 1)}: {reason}" for reason, count in reasons.most_common()]
    return [f"{head}; the others do not{several}:", *counted]


def report_first(first: Sequence[EarlierTrial]) -> list[str]:
    """Which configurations are trained right after trial 0."""
    if not first:
        return ["No earlier configuration comes first: none is COMPLETE, feasible here and other than trial 0"]
    names = [each.source + (" (the nearest in this space)" if each.reasons else "") for each in first]
    come = "configuration comes" if len(first) == 1 else "configurations come"
    return [f"{len(first)} {come} first, after trial 0: {', '.join(names)}"]
