"""The files of a run directory, read one by one: search.yaml, environment.json, the Optuna journal, the checkpoints.

Knows nothing of Ray's files; nothing is unpickled and nothing is written.
"""

import json
import re
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from analysis.tables import Curve
from training.checkpoint import CheckpointError, newest_checkpoint, read_meta
from training.config import ConfigError, TrialConfig, validate

CONFIG, ENVIRONMENT, JOURNAL = "search.yaml", "environment.json", "study.journal"
TRIAL_DIRECTORY = re.compile(r"trial_(\d+)_.*")
URL = re.compile(r"\w{2,}:/")  # pathlib makes one slash of two


class AnalysisError(Exception):
    """What cannot be analysed: says what is wrong, and the remedy."""


def read_settings(run: Path) -> dict[str, Any]:
    """search.yaml as a mapping. Raises AnalysisError."""
    if URL.match(str(run)):
        raise AnalysisError(f"{run} is a URL; copy the run directory to this machine and name the copy")
    if not run.is_dir():
        raise AnalysisError(f"there is no directory {run}. Name the run directory that the search printed.")
    if not (run / CONFIG).is_file() or not (run / JOURNAL).is_file():
        raise AnalysisError(
            f"{run} is no run directory: it needs {CONFIG} and {JOURNAL}. Name the one a search printed."
        )
    try:
        settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AnalysisError(f"{run / CONFIG} cannot be read as YAML: {error}") from None
    if not isinstance(settings, dict):
        raise AnalysisError(f"{run / CONFIG} must be a mapping of sections, got {type(settings).__name__}")
    return settings


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
    except Exception as error:  # Optuna raises whatever a damaged line leads to
        raise AnalysisError(f"{run / JOURNAL} is damaged ({error!r}). Restore it from a copy.") from error
    if not studies:
        raise AnalysisError(f"{run / JOURNAL} holds no study yet: the search has not begun. Try again when it has.")
    study = optuna.load_study(study_name=studies[0].study_name, storage=storage)
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]


def read_environment(run: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """The entries of environment.json; what cannot be used is left out and said."""
    try:
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


def find_checkpoint(run: Path, number: int) -> tuple[Path | None, list[str]]:
    """A trial's intact checkpoint with the most epochs, and what is wrong with the others."""
    return newest_checkpoint(directory for _, directory in trial_directories(run, number))


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
