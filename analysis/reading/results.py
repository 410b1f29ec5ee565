"""A search as it is analysed: trials and epochs as DataFrames, the space, the best trial, and what is missing."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from analysis.reading.bucket import fetch_run, fetch_tensors, nested, newest_run_at, send_report
from analysis.reading.place import AnalysisError, check_directory
from analysis.reading.tables import Curve, epochs_table, last_epoch, trials_table
from search.config import SearchConfig, read_yaml, written_config
from search.record.checkpoints import checkpoint_directories, find_checkpoint
from search.record.endings import Ending, Infeasible, ending_of, infeasibility_of, is_own
from search.record.environment import read_environment
from search.record.journal import JournalError, read_trials
from search.record.run_directory import CONFIG, JOURNAL
from search.record.storage import Mirror, child_of, is_url, url_name
from search.space import SpaceEntry
from training.checkpoint import CheckpointError, read_meta
from training.config import TrialConfig
from training.errors import ConfigError
from training.messages import shown


@dataclass(frozen=True)
class BestTrial:
    """The winner of a search: Optuna's best trial, or, provisionally, the pruned one that got furthest."""

    number: int
    val_accuracy: float
    epochs: int
    params: dict[str, Any]
    provisional: bool


@dataclass(frozen=True, eq=False)
class SearchResults:
    """A search as DataFrames. `warnings` says in sentences what is missing and what that rules out."""

    run: Path  # of a run in a bucket: its working copy on this machine
    settings: SearchConfig  # search.yaml
    environment: list[dict[str, Any]]  # one entry for each start and resume
    trials: pd.DataFrame
    epochs: pd.DataFrame
    best_trial: BestTrial | None
    params: dict[int, dict[str, Any]] = field(repr=False)  # by trial number
    infeasible: dict[int, Infeasible] = field(default_factory=dict, repr=False)  # by trial number, if it was recorded
    warnings: list[str] = field(default_factory=list)
    mirror: Mirror | None = field(default=None, repr=False)  # of a run in a bucket

    @property
    def config(self) -> TrialConfig:
        """That of trial 0, the defaults, but for its seed."""
        return self.settings.base

    @property
    def space(self) -> dict[str, SpaceEntry]:
        return self.settings.space

    @property
    def notice(self) -> str | None:
        return self.settings.search.notice

    @property
    def place(self) -> str:
        """What a user calls the run directory: its path, or its URL."""
        return str(self.run) if self.mirror is None else self.mirror.url

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.run.resolve().name if self.mirror is None else url_name(self.mirror.url)

    @property
    def best_number(self) -> int | None:
        """The number of the best trial; None if there is none."""
        return None if self.best_trial is None else self.best_trial.number

    def file(self, name: str) -> str:
        """What a user calls a file of the run directory."""
        return child_of(self.place, name)

    def worded(self, sentence: str) -> str:
        """A sentence with the URL where it names the working copy."""
        return worded(sentence, self.run, self.mirror)

    def checkpoint_of(self, number: int) -> Path | None:
        """The intact checkpoint of a trial with the most epochs, or None; see `training.load_model`.

        Raises AnalysisError if it lies in a bucket that fails.
        """
        return find_checkpoint(self.run, number, fetcher(self.mirror))[0]

    def send_report(self) -> None:
        """Send what has changed in report/ to the bucket, if the run is in one. Raises AnalysisError."""
        if self.mirror is not None:
            send_report(self.mirror)

    def config_of(self, number: int) -> TrialConfig:
        """A trial's config but for its seed. Raises KeyError for an unknown number, AnalysisError for no config."""
        try:
            return self.config.override(self.params[number])
        except ConfigError as error:
            raise AnalysisError(
                f"trial {number} does not fit {self.file(CONFIG)}: {error}. Restore it from a copy."
            ) from None


def newest_run(runs_dir: Path | str) -> Path | str:
    """The run whose journal was written to last; in a bucket its URL. Raises AnalysisError if there is none."""
    if is_url(runs_dir):
        return newest_run_at(url_text(runs_dir))
    runs_dir = Path(runs_dir)
    try:
        journals = [journal for journal in runs_dir.glob(f"*/{JOURNAL}") if journal.is_file()]
    except OSError as error:  # too long a name
        raise AnalysisError(
            f"--runs-dir {shown(str(runs_dir))} cannot be read: {error.strerror}. Name another."
        ) from None
    runs = [journal.parent for journal in journals if (journal.parent / CONFIG).is_file()]
    if not runs:
        raise AnalysisError(
            f"there is no run in {runs_dir}. Name a run directory, say where runs are with --runs-dir, "
            "or make one: python run_search.py --num-samples 50"
        )
    return max(runs, key=lambda run: (run / JOURNAL).stat().st_mtime_ns)


def load_search(run: Path | str, sources: bool = False) -> SearchResults:
    """Read a run directory by its path or URL. `sources`: with trials taken over from earlier searches, and a column
    `source`.

    Raises AnalysisError for what is not a run directory. Whatever else is missing is said in `warnings`.
    """
    if not is_url(run):
        return read_search(Path(run), None, sources)
    mirror = fetch_run(url_text(run))
    return read_search(mirror.path, mirror, sources)


def load_nested(results: SearchResults, name: str) -> SearchResults | None:
    """The run directory `name` within a search's; None if there is none. Raises AnalysisError."""
    run = results.run / name
    if not (run / CONFIG).is_file() or not (run / JOURNAL).is_file():
        return None
    return read_search(run, None if results.mirror is None else nested(results.mirror, name))


def url_text(place: Path | str) -> str:
    """A URL as it was given. Raises AnalysisError for a Path, which has lost a slash of it."""
    if isinstance(place, Path):
        raise AnalysisError(f"{place} is a URL and must be given as str, got {type(place).__name__}")
    return place


def fetcher(mirror: Mirror | None) -> Callable[[Path], None] | None:
    """What brings tensor files here."""
    return None if mirror is None else partial(fetch_tensors, mirror)


def worded(sentence: str, run: Path, mirror: Mirror | None) -> str:
    """A sentence with the URL, without its parameters, where it names the working copy."""
    return sentence if mirror is None else sentence.replace(str(run), mirror.url.partition("?")[0])


def read_search(run: Path, mirror: Mirror | None, sources: bool = False) -> SearchResults:
    """Read a run directory, or the working copy of one. Raises AnalysisError."""
    try:
        settings, warnings = read_settings(run)
        every_trial = read_journal(run)
    except AnalysisError as error:
        raise AnalysisError(worded(str(error), run, mirror)) from None
    environment, problem = read_environment(run)
    warnings += [problem] if problem else []
    own = [trial for trial in every_trial if is_own(trial)]
    listed = every_trial if sources else own
    curves = read_curves(run, {trial.number for trial in own}, warnings)
    results = SearchResults(
        run=run,
        settings=settings,
        environment=environment,
        trials=trials_table(listed, curves, settings.space, sources),
        epochs=epochs_table(listed, curves),
        best_trial=find_best(run, own, curves, mirror),
        params={trial.number: dict(trial.params) for trial in listed},
        infeasible={trial.number: why for trial in own if (why := infeasibility_of(trial)) is not None},
        mirror=mirror,
    )
    warnings += what_is_missing(results, own)
    results.warnings.extend(dict.fromkeys(map(results.worded, warnings)))
    return results


def read_settings(run: Path) -> tuple[SearchConfig, list[str]]:
    """(search.yaml, warnings). Raises AnalysisError."""
    check_directory(run)
    try:
        settings, unknown = written_config(read_yaml(run / CONFIG))
    except ConfigError as error:
        raise AnalysisError(f"{run / CONFIG} is not a config of this version: {error}. Restore it.") from None
    return settings, [f"{CONFIG}: {line}, and is left out." for line in unknown]


def read_journal(run: Path) -> list[FrozenTrial]:
    """The trials of the only study in the journal, those not begun left out. Raises AnalysisError."""
    try:
        trials = read_trials(run / JOURNAL)
    except JournalError as error:
        raise AnalysisError(f"{error}. Restore it from a copy.") from error
    if trials is None:
        raise AnalysisError(f"{run / JOURNAL} holds no study yet: the search has not begun. Try again when it has.")
    return trials


def read_curves(run: Path, numbers: set[int], warnings: list[str]) -> dict[int, Curve]:
    """Learning curves by trial number, from every meta.json; of two words on an epoch the later counts."""
    results: dict[int, list[Any]] = {}
    for number, directory in checkpoint_directories(run):
        if number not in numbers:
            warnings.append(f"{directory.parent.name} belongs to no trial of the journal and is ignored.")
            continue
        try:
            results.setdefault(number, []).extend(read_meta(directory)["results"])
        except CheckpointError as error:
            warnings.append(f"Trial {number}: {error}. This checkpoint is passed over.")
    return {
        number: {result.epoch: result for result in sorted(found, key=lambda result: result.finished_at)}
        for number, found in results.items()
        if found
    }


def find_best(
    run: Path, trials: Sequence[FrozenTrial], curves: Mapping[int, Curve], mirror: Mirror | None = None
) -> BestTrial | None:
    """COMPLETE and feasible with the highest value; else the PRUNED trial that got furthest and can be loaded."""
    reached = {trial.number: last_epoch(trial, curves.get(trial.number, {})) for trial in trials}
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(v <= 0 for v in t.constraints.values())]
    pruned = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED and ending_of(trial) not in (Ending.DIVERGED, Ending.INFEASIBLE)
    ]
    best = max(complete, key=lambda trial: (trial.value, -trial.number), default=None)
    if best is None:
        furthest = sorted(pruned, key=lambda trial: reached[trial.number], reverse=True)
        usable = (trial for trial in furthest if find_checkpoint(run, trial.number, fetcher(mirror))[0] is not None)
        best = next(usable, None)
    if best is None:
        return None
    epochs, val_accuracy = reached[best.number]
    return BestTrial(best.number, val_accuracy, epochs, dict(best.params), provisional=not complete)


def what_is_missing(results: SearchResults, own: Sequence[FrozenTrial]) -> list[str]:
    """What a reader of the results has to know, in sentences; `own`: the search's own trials."""
    warnings, best = [], results.best_trial
    running = sum(trial.state == TrialState.RUNNING for trial in own)
    if running:
        warnings.append(
            f"{running} {'trial is' if running == 1 else 'trials are'} RUNNING: the search is still going, or was "
            f"interrupted (then go on with: python run_search.py --resume {shlex.quote(results.place)}). "
            "These results are not final."
        )
    if best is None:
        states = "no trial has begun" if not own else f"none of {len(own)} trials is COMPLETE or can be loaded"
        return [*warnings, f"There is no best trial: {states}. No network can be evaluated."]
    if best.provisional:
        warnings.append(
            f"No trial is COMPLETE. Trial {best.number}, pruned after {best.epochs} epochs, got furthest "
            "and stands in for the best one: provisional."
        )
    for number in sorted({best.number, 0} & {trial.number for trial in own}, reverse=True):
        checkpoint, problems = find_checkpoint(results.run, number, fetcher(results.mirror))
        warnings += [f"Trial {number}: {problem}. This checkpoint is passed over." for problem in problems]
        if checkpoint is None:
            missing = f"Trial {number} has no readable checkpoint in {results.place}"
            warnings.append(f"{missing}: its network cannot be evaluated.")
    return warnings
