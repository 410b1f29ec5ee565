"""Searches as a user runs them, in their own processes, and what must hold of the run directories that they leave."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

PROJECT = Path(__file__).parents[2]
PROGRAMS = PROJECT / "tests" / "programs"
RUN_SEARCH = [sys.executable, str(PROJECT / "run_search.py")]
QUICK = ["--config", str(PROJECT / "configs" / "quick.yaml"), "--name", "run"]


def environment(**more: str) -> dict[str, str]:
    """That of these tests, with which programs elsewhere find this project."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), **more}


def faulty_search(harm: str, place: Path) -> list[str]:
    """The command of a search whose trials are harmed."""
    return [sys.executable, str(PROGRAMS / "faulty_search.py"), harm, str(place)]


def run(
    *arguments: str, cwd: Path, check: int | None = 0, command: Sequence[str] = RUN_SEARCH, **more: str
) -> subprocess.CompletedProcess[str]:
    """A search that ends; `more` goes to its environment."""
    done = subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=400
    )
    assert check is None or done.returncode == check, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done


def trials_of(directory: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    return optuna.load_study(study_name=None, storage=storage).trials


def counted(directory: Path) -> list[FrozenTrial]:
    return [trial for trial in trials_of(directory) if trial.user_attrs.get("stopped_by") != "infeasible"]


def metas(directory: Path, number: int) -> list[dict[str, Any]]:
    """Every meta.json of a trial, fewest epochs first; those that a fault cut off in writing are left out."""
    found = []
    for file in directory.glob(f"trial_{number:04d}_*/checkpoint_*/meta.json"):
        with contextlib.suppress(json.JSONDecodeError, FileNotFoundError):
            found.append(json.loads(file.read_text()))
    return sorted(found, key=lambda meta: len(meta["results"]))


def check_record(directory: Path, num_samples: int, epochs: int) -> None:
    """What must hold for any search that ended by itself."""
    trials = counted(directory)
    assert len(trials) == num_samples
    assert len({trial.number for trial in trials}) == num_samples
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert all(trial.state != TrialState.RUNNING for trial in trials_of(directory))
    for trial in trials:
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1)), "no epoch's value is missing"
        if trial.state == TrialState.COMPLETE:
            assert len(steps) == epochs and trial.value == trial.intermediate_values[epochs]
        else:
            assert trial.user_attrs["stopped_by"] == "asha"
        curve = [result["val_accuracy"] for result in metas(directory, trial.number)[-1]["results"]]
        assert curve == [trial.intermediate_values[step] for step in steps]


def start(*arguments: str, cwd: Path, command: Sequence[str] = RUN_SEARCH, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *arguments],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """What the condition gives once it is met."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return value


def wait_for_epochs(directory: Path, count: int) -> None:
    files = "trial_*/checkpoint_*/meta.json"
    wait_until(lambda: len(list(directory.glob(files))) >= count, f"{count} checkpoints", seconds=120)
