"""A search as it is analysed: trials and epochs as DataFrames, the space, the best trial, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from analysis.run_files import (
    CONFIG,
    JOURNAL,
    base_config,
    find_checkpoint,
    read_curves,
    read_environment,
    read_journal,
    read_settings,
)
from analysis.run_files import AnalysisError as AnalysisError
from analysis.tables import Curve, epochs_table, last_epoch, trials_table
from training.config import TrialConfig


@dataclass(frozen=True)
class BestTrial:
    """The winner of a search: Optuna's best trial, or, provisionally, the pruned one that got furthest."""

    number: int
    val_accuracy: float
    epochs: int
    params: dict[str, Any]
    provisional: bool


@dataclass(frozen=True)
class SearchResults:
    """A search as DataFrames. `warnings` says in sentences what is missing and what that rules out."""

    run: Path
    config: TrialConfig  # of trial 0, the defaults
    settings: dict[str, Any]  # search.yaml, whole
    space: dict[str, Any]
    notice: str | None
    environment: list[dict[str, Any]]  # one entry for each start and resume
    trials: pd.DataFrame
    epochs: pd.DataFrame
    best_trial: BestTrial | None
    params: dict[int, dict[str, Any]] = field(repr=False)  # by trial number
    warnings: list[str] = field(default_factory=list)

    def checkpoint_of(self, number: int) -> Path | None:
        """The intact checkpoint of a trial with the most epochs, or None; see `training.load_model`."""
        return find_checkpoint(self.run, number)[0]

    def config_of(self, number: int) -> TrialConfig:
        """A trial's config but for its seed. Raises KeyError for an unknown number."""
        return self.config.override(self.params[number])


def newest_run(runs_dir: Path | str) -> Path:
    """The run directory whose journal was written to last. Raises AnalysisError where there is none."""
    runs_dir = Path(runs_dir)
    runs = [journal.parent for journal in runs_dir.glob(f"*/{JOURNAL}") if (journal.parent / CONFIG).is_file()]
    if not runs:
        raise AnalysisError(
            f"there is no run in {runs_dir}. Name a run directory, say where runs are with --runs-dir, "
            "or make one: python run_search.py --num-samples 50"
        )
    return max(runs, key=lambda run: (run / JOURNAL).stat().st_mtime_ns)


def load_search(run: Path | str, sources: bool = False) -> SearchResults:
    """Read a run directory. `sources`: with trials taken over from earlier searches, and a column `source`.

    Raises AnalysisError for what is not a run directory. Whatever else is missing is said in `warnings`.
    """
    run = Path(run)
    settings = read_settings(run)
    base = base_config(settings, run)
    every_trial = read_journal(run)
    warnings: list[str] = []
    environment = read_environment(run, warnings)
    own = [trial for trial in every_trial if "source" not in trial.user_attrs]
    listed = every_trial if sources else own
    curves = read_curves(run, {trial.number for trial in own}, warnings)
    space = dict(settings.get("space") or {})
    best = find_best(run, own, curves)
    warnings += what_is_missing(run, own, best)
    return SearchResults(
        run=run,
        config=base,
        settings=settings,
        space=space,
        notice=(settings.get("search") or {}).get("notice"),
        environment=environment,
        trials=trials_table(listed, curves, space, sources),
        epochs=epochs_table(listed, curves),
        best_trial=best,
        params={trial.number: dict(trial.params) for trial in listed},
        warnings=list(dict.fromkeys(warnings)),
    )


def find_best(run: Path, trials: Sequence[FrozenTrial], curves: dict[int, Curve]) -> BestTrial | None:
    """COMPLETE and feasible with the highest value; else the PRUNED trial that got furthest and can be loaded."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(v <= 0 for v in t.constraints.values())]
    if complete:
        return _best_trial(max(complete, key=lambda trial: (trial.value, -trial.number)), curves, provisional=False)
    pruned = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED and trial.user_attrs.get("stopped_by") not in ("diverged", "infeasible")
    ]
    for trial in sorted(pruned, key=lambda trial: last_epoch(trial, curves.get(trial.number, {})), reverse=True):
        if find_checkpoint(run, trial.number)[0] is not None:
            return _best_trial(trial, curves, provisional=True)
    return None


def _best_trial(trial: FrozenTrial, curves: dict[int, Curve], provisional: bool) -> BestTrial:
    epochs, val_accuracy = last_epoch(trial, curves.get(trial.number, {}))
    return BestTrial(trial.number, val_accuracy, epochs, dict(trial.params), provisional)


def what_is_missing(run: Path, trials: Sequence[FrozenTrial], best: BestTrial | None) -> list[str]:
    """What a reader of the results has to know, in sentences."""
    warnings = []
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    if running:
        warnings.append(
            f"{running} {'trial is' if running == 1 else 'trials are'} RUNNING: the search is still going, or was "
            f"interrupted (then go on with: python run_search.py --resume {run}). These results are not final."
        )
    if best is None:
        states = "no trial has begun" if not trials else f"none of {len(trials)} trials is COMPLETE or can be loaded"
        warnings.append(f"There is no best trial: {states}. No network can be evaluated.")
    elif best.provisional:
        warnings.append(
            f"No trial is COMPLETE. Trial {best.number}, pruned after {best.epochs} epochs, got furthest "
            "and stands in for the best one: provisional."
        )
    for number in dict.fromkeys([best.number, 0] if best else []):
        warnings += _checkpoint_warnings(run, number, known=number in {trial.number for trial in trials})
    return warnings


def _checkpoint_warnings(run: Path, number: int, known: bool) -> list[str]:
    if not known:
        return []
    checkpoint, problems = find_checkpoint(run, number)
    warnings = [f"Trial {number}: {problem}. This checkpoint is passed over." for problem in problems]
    if checkpoint is None:
        warnings.append(f"Trial {number} has no readable checkpoint in {run}: its network cannot be evaluated.")
    return warnings
