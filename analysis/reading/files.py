"""The files of a run directory as a reader takes them: what is damaged is said, and stops as little as it can."""

from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from analysis.reading.place import CONFIG, JOURNAL, AnalysisError, check_directory
from analysis.reading.tables import Curve
from search.config import SearchConfig, read_yaml, written_config
from search.record.checkpoints import checkpoint_directories
from search.record.journal import JournalError, read_trials
from training.checkpoint import CheckpointError, read_meta
from training.errors import ConfigError


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
