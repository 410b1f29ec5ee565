"""The run directory on the driver's side: made, locked, its journal opened and mended, its circumstances recorded."""

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.config import SearchConfig
from training.checkpoint import newest_checkpoint

CONFIG, ENVIRONMENT, JOURNAL = "search.yaml", "environment.json", "study.journal"
PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "scikit-learn")


class SearchError(Exception):
    """Something outside the config that keeps a search from running: says what, and the remedy."""


def create_run(run: Path) -> None:
    """Make a new run directory. Raises SearchError where the name is taken."""
    try:
        run.mkdir(parents=True)
    except FileExistsError:
        raise SearchError(f"{run} exists already. Choose another --name, or go on with --resume {run}") from None
    except OSError as error:
        raise SearchError(f"{run} cannot be made ({error}). Choose another --runs-dir.") from None


def open_run(run: Path) -> None:
    """Make sure that a directory holds a search. Raises SearchError."""
    if not (run / CONFIG).is_file():
        raise SearchError(
            f"{run} holds no search: there is no {CONFIG} in it. Name the directory that a search printed."
        )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a second search out of a run directory; the kernel frees the lock whatever ends this process."""
    try:
        stream = (run / JOURNAL).open("ab")
    except OSError as error:
        raise SearchError(f"{run / JOURNAL} cannot be written ({error}). A search needs its run directory.") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(f"another search is running in {run}. Wait for it, or choose another --name.") from None
        yield


def open_study(run: Path, config: SearchConfig | None) -> optuna.Study:
    """The one study of a locked run directory, made where it is new. Mends what a SIGKILL leaves in the journal.

    The config itself is queued as trial 0 of an empty study; None: its trials are queued by others.
    """
    journal = run / JOURNAL
    drop_torn_line(journal)
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # ours alone: we hold the directory's lock
    storage = JournalStorage(JournalFileBackend(str(journal)))
    names = [study.study_name for study in storage.get_all_studies()]
    if names:
        study = optuna.load_study(study_name=names[0], storage=storage)
    else:
        study = optuna.create_study(study_name=run.name, storage=storage, direction="maximize")
    if config is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(config.search_space.default_params())
    return study


def drop_torn_line(journal: Path) -> None:
    """Cut a journal back to its last newline: what is appended to a torn line would be lost with it."""
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        print(f"{journal}: its last line was torn by a crash and is dropped", file=sys.stderr)
        os.truncate(journal, whole)


def find_checkpoint(run: Path, number: int) -> Path | None:
    """The newest intact checkpoint of a trial, over all directories of its number; damaged ones are named."""
    newest, problems = newest_checkpoint(run.glob(f"trial_{number:04d}_*/checkpoint_*"))
    for problem in problems:
        print(f"trial {number}: {problem}", file=sys.stderr)
    return newest


def record_environment(run: Path, command: list[str]) -> None:
    """Append versions, hardware, git commit and command line to environment.json."""
    path = run / ENVIRONMENT
    entries = json.loads(path.read_text()) if path.exists() else []
    entries.append(
        {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(command),
            "git_commit": _git_commit(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "hardware": {
                "cpu": _cpu_model(),
                "cores": os.cpu_count(),
                "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            },
        }
    )
    write_atomically(path, json.dumps(entries, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text so that a reader, or a crash, never meets half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _git_commit() -> str | None:
    try:
        here = Path(__file__).parent
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        return answer.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
