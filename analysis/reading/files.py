"""The files of a run directory, read one by one: search.yaml, environment.json, the Optuna journal, the checkpoints.

Knows nothing of Ray's files; nothing is unpickled and nothing is written.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from analysis.reading.place import CONFIG as CONFIG
from analysis.reading.place import JOURNAL as JOURNAL
from analysis.reading.place import AnalysisError as AnalysisError
from analysis.reading.place import check_directory
from analysis.reading.tables import Curve
from search.strict_yaml import parse_yaml
from training.checkpoint import CheckpointError, newest_checkpoint, read_meta
from training.config import LARGEST, TrialConfig, validate
from training.errors import ConfigError
from training.messages import shown

ENVIRONMENT = "environment.json"
TRIAL_DIRECTORY = re.compile(r"trial_(\d+)_.*")


def read_settings(run: Path) -> dict[str, Any]:
    """search.yaml as a mapping. Raises AnalysisError."""
    check_directory(run)
    try:
        settings = parse_yaml((run / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{run / CONFIG} cannot be read as YAML: {error}") from None
    if not isinstance(settings, dict):
        raise AnalysisError(f"{run / CONFIG} must be a mapping of sections, got {type(settings).__name__}")
    check_sections(settings, run / CONFIG)
    return settings


def check_sections(settings: dict[str, Any], file: Path) -> None:
    """What the analysis reads beside trial 0's config. Raises AnalysisError."""
    for name, section in settings.items():
        if section is not None and not isinstance(section, dict):
            raise AnalysisError(f"{file}: {shown(name)} must be a mapping, got {shown(section)}. Restore it.")
    scheduler = settings.get("scheduler") or {}
    for name, low, high in (("grace_epochs", 1, LARGEST), ("reduction_factor", 1.1, 100)):
        value = scheduler.get(name, low)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise AnalysisError(
                f"{file}: scheduler.{name} must be from {low} to {high:,}, got {shown(value)}. Restore it."
            )
    if not isinstance(notice := (settings.get("search") or {}).get("notice"), str | None):
        raise AnalysisError(f"{file}: search.notice must be a text, got {shown(notice)}. Restore it.")


def base_config(settings: dict[str, Any], run: Path) -> TrialConfig:
    """The config of trial 0 but for its seed; the split's seed is the search's. Raises AnalysisError."""
    sections = {name: settings[name] for name in TrialConfig.model_fields if settings.get(name)}
    sections["data"] = {"split_seed": (settings.get("search") or {}).get("seed", 0), **sections.get("data", {})}
    try:
        return validate(TrialConfig, sections)
    except ConfigError as error:
        raise AnalysisError(f"{run / CONFIG} is not a config of this version: {error}") from None


def read_journal(run: Path) -> list[FrozenTrial]:
    """The trials of the only study in the journal, those not begun left out. Raises AnalysisError."""
    try:
        storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
        studies = storage.get_all_studies()
        trials = storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []
        for trial in trials:
            check_trial(trial)
    except Exception as error:  # Optuna raises whatever a damaged line leads to
        raise AnalysisError(f"{run / JOURNAL} is damaged ({error!r}). Restore it from a copy.") from error
    if not studies:
        raise AnalysisError(f"{run / JOURNAL} holds no study yet: the search has not begun. Try again when it has.")
    return [trial for trial in trials if trial.state != TrialState.WAITING]


def check_trial(trial: FrozenTrial) -> None:
    """Raises for a trial that no search has written: Optuna reads a journal without looking at types."""
    values = trial.values or []
    if len(values) != (1 if trial.state == TrialState.COMPLETE else trial.values is not None):
        raise ValueError(f"trial {trial.number} is {trial.state.name} with {len(values)} values")
    for number in (*values, *trial.intermediate_values.values(), *trial.constraints.values()):
        if not isinstance(number, int | float):
            raise TypeError(f"trial {trial.number} has {shown(number)} where a number must be")
    for name in ("stopped_by", "reason", "source"):
        if not isinstance(trial.user_attrs.get(name), str | None):
            raise TypeError(f"trial {trial.number} has {shown(trial.user_attrs[name])} as its {name}")
    for name in ("source_number", "num_params", "multiply_adds"):
        value = trial.user_attrs.get(name, 0)
        if not isinstance(value, int) or not 0 <= value < 2**63:
            raise TypeError(f"trial {trial.number} has {shown(value)} as its {name}")


def read_environment(run: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """The entries of environment.json; what cannot be used is left out and said."""
    try:
        if (run / ENVIRONMENT).exists() and not (run / ENVIRONMENT).is_file():
            raise OSError("no file")
        entries = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"{ENVIRONMENT} cannot be read ({error!r}): versions, hardware and command are unknown.")
        return []
    entries = entries if isinstance(entries, list) else [entries]
    usable = [entry for entry in entries if isinstance(entry, dict)]
    if len(usable) < len(entries):
        warnings.append(f"{ENVIRONMENT}: {len(entries) - len(usable)} entries are not mappings and were left out.")
    return usable


def trial_directories(run: Path, number: int | None = None) -> list[tuple[int, Path]]:
    """(trial number, checkpoint directory) of one trial or all; a trial that was resumed has several directories."""
    found = []
    for directory in sorted(run.glob("trial_*/checkpoint_*")):
        match = TRIAL_DIRECTORY.fullmatch(directory.parent.name)
        if match and number in (None, int(match[1])) and directory.is_dir():
            found.append((int(match[1]), directory))
    return found


def find_checkpoint(
    run: Path, number: int, fetch: Callable[[Path], None] | None = None
) -> tuple[Path | None, list[str]]:
    """A trial's intact checkpoint with the most epochs, and what is wrong with the others.

    `fetch` brings the tensor files of a checkpoint here, where they are not, before they are read.
    """
    directories = [directory for _, directory in trial_directories(run, number)]
    if fetch is None:
        return newest_checkpoint(directories)
    problems: list[str] = []
    for epochs, directory in sorted(((_epochs(each), each) for each in directories), reverse=True):
        if epochs < math.inf:
            fetch(directory)
        found, wrong = newest_checkpoint([directory])
        problems += wrong
        if found is not None:
            return found, problems
    return None, problems


def _epochs(checkpoint: Path) -> float:
    """The epochs behind a checkpoint; infinite where it cannot be read, which is said first."""
    try:
        return len(read_meta(checkpoint)["results"])
    except CheckpointError:
        return math.inf


def read_curves(run: Path, numbers: set[int], warnings: list[str]) -> dict[int, Curve]:
    """Learning curves by trial number, from every meta.json; of two words on an epoch the later counts."""
    results: dict[int, list[Any]] = {}
    for number, directory in trial_directories(run):
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
