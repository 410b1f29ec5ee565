"""Earlier searches, read only: their trials as points of another search's space, or why they are none.

A trial is the same in both where nothing that trains it differs but its seed and where the data lie. Accuracies compare
where epochs, images and split are the same.
"""

from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.config import DERIVED_PATHS, SearchConfig, parse_config, read_yaml
from search.feasibility import why_infeasible
from search.record.endings import SOURCE, Ending, ending_of
from search.record.journal import JournalError, read_trials
from search.record.run_directory import CONFIG, JOURNAL, SearchError, open_run
from search.record.run_storage import RunStorage
from search.space import FIXED_PATHS, SearchSpace, describe, differences, value_by_path
from training.errors import ConfigError

COMPARED_PATHS = sorted(FIXED_PATHS - {"data.data_dir", "train.seed"})


@dataclass(frozen=True)
class EarlierSearch:
    """A run directory as it was read; `incomparable` says why its accuracies do not compare with this search's."""

    name: str
    config: SearchConfig
    trials: list[FrozenTrial]  # those that have begun
    incomparable: tuple[str, ...]


@dataclass(frozen=True)
class EarlierTrial:
    """A trial as a point of the new space: the nearest one where `reasons` say why it is not the same, or None."""

    source: str  # RUN#number
    trial: FrozenTrial
    params: dict[str, Any] | None
    reasons: tuple[str, ...]

    @property
    def identity(self) -> tuple[str, Any]:
        """The same in all studies that hold the trial; trials of two runs of one name differ in time."""
        return self.source, self.trial.datetime_start


def read_search(run: RunStorage, config: SearchConfig) -> EarlierSearch:
    """Config and trials of a run directory, which may still be written to. Raises SearchError."""
    open_run(run.path, str(run))
    try:
        earlier = parse_config(read_yaml(run.path / CONFIG), {})
    except ConfigError as error:
        why = "; ".join(error.errors)
        raise SearchError(f"{run}: its {CONFIG} is no config of this version ({why}). Leave this run out.") from None
    there, here = value_by_path(earlier.base), value_by_path(config.base)
    there["data.split_seed"] = earlier.data.split_seed
    incomparable = [
        f"{DERIVED_PATHS.get(path, path)} is {there[path]!r} there and {here[path]!r} here"
        for path in COMPARED_PATHS
        if there[path] != here[path]
    ]
    return EarlierSearch(run.name, earlier, begun_trials(run), tuple(incomparable))


def begun_trials(run: RunStorage) -> list[FrozenTrial]:
    """The trials of a run directory that have begun. Raises SearchError."""
    journal = run.path / JOURNAL
    if not journal.is_file():
        raise SearchError(f"{run} holds no {JOURNAL}: nothing was searched there. Leave this run out.")
    try:
        return read_trials(journal) or []
    except JournalError as error:
        raise SearchError(f"{error}. Restore it from a copy, or leave this run out.") from None


def map_trial(
    trial: FrozenTrial, search: EarlierSearch, config: SearchConfig, space: SearchSpace, num_classes: int
) -> EarlierTrial:
    """An earlier trial as a point of the space of `config`."""
    source = trial.user_attrs.get(SOURCE, f"{search.name}#{trial.number}")
    useless = why_useless(trial)
    if useless is not None:
        return EarlierTrial(source, trial, None, (useless,))
    try:
        there = search.config.base.override(trial.params)
        params, outside = space.nearest(there)
        here = space.apply(params)
    except ConfigError as error:
        return EarlierTrial(source, trial, None, tuple(error.errors))
    paths = list(dict.fromkeys(space.entry_path(name) for name in outside))
    reasons = [f"{path} outside {describe(space.entries[path])}" for path in paths]
    for path in differences(there, here):
        if path not in FIXED_PATHS and path not in paths:
            value = "searched" if path in search.config.space else repr(value_by_path(there)[path])
            state = "inactive" if path in space.entries else "fixed"
            reasons.append(f"{path} is {value} there and {state} at {value_by_path(here)[path]!r} here")
    problem = why_infeasible(here, config.search, num_classes)
    if problem is not None and not reasons:  # else it is the nearest network that is infeasible
        reasons.append(f"infeasible here: {problem.kind_in_words}")
    usable = problem is None and outside.keys() <= params.keys()
    return EarlierTrial(source, trial, params if usable else None, tuple(reasons))


def why_useless(trial: FrozenTrial) -> str | None:
    """Why a trial says nothing in any space; None: it ended with an accuracy."""
    if not trial.state.is_finished():
        return "not finished"
    if trial.state == TrialState.FAIL:
        return "failed there"
    if ending_of(trial) == Ending.INFEASIBLE:
        return "infeasible there"
    return "ended before the first epoch" if trial.value is None else None
