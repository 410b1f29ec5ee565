"""The run directory: the names in it, how it is made, entered and locked."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from search.config import SearchConfig
from training.files import new_file

CONFIG, ENVIRONMENT, JOURNAL = "search.yaml", "environment.json", "study.journal"
CHECKPOINTS_KEPT = 2  # of each trial: the newest, and one to fall back on
Kind = Literal["confirm", "audit"]  # of searches that train trials of another again, in a directory of it
KINDS: tuple[Kind, ...] = ("confirm", "audit")
TRIAL_DIRECTORY = re.compile(r"trial_(\d+)_.*")


class SearchError(Exception):
    """Something outside the config that keeps a search from running: says what, and the remedy."""


def create_run(run: Path, config: SearchConfig) -> None:
    """Make a new run directory, which holds its config from its first moment: else a process killed now would leave a
    name that can be neither resumed nor taken. Raises SearchError where the name is taken.
    """
    unfinished = run.with_name(f".{run.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        (unfinished / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        unfinished.rename(run)
    except OSError as error:
        if run.exists():
            raise SearchError(f"{run} exists already. Choose another --name, or go on with --resume {run}") from None
        raise SearchError(f"{run} cannot be made ({error}). Choose another --runs-dir.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_run(run: Path, called: str | None = None) -> None:
    """Make sure that a directory, which its user may call by a URL, holds a search. Raises SearchError."""
    if not (run / CONFIG).is_file():
        raise SearchError(
            f"{called or run} holds no search: there is no {CONFIG} in it. Name the directory that a search printed."
        )


def refuse_links(run: Path) -> None:
    """Make sure that what is written into a run directory, maybe a stranger's, stays in it. Raises SearchError.

    Directories in it may be links: a search writes only into those that it makes.
    """
    locks = set(locks_of_journal(run))
    for path in locks:
        if path.is_dir() and not path.is_symlink():
            raise SearchError(f"{path} is a directory, where Optuna locks the journal. Remove it.")
    for path in (run, *(path for path in run.glob("*") if path not in locks and not path.is_dir())):
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise SearchError(
                f"{path} is a link, or no file: what is written there would go elsewhere. Remove it, or go on with a "
                f"copy without links: cp -rL {run} COPY"
            )


def locks_of_journal(run: Path) -> Iterator[Path]:
    """Optuna's lock, a link that is never followed; killed while it gives it back, a process leaves it renamed."""
    return run.glob(f"{JOURNAL}.lock*")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a second search out of a run directory; the kernel frees the lock whatever ends this process."""
    refuse_links(run)
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


def trial_directory(number: int, ray_id: str) -> str:
    """`trial_0007_<Ray's id>`, the name of one; a trial that was gone on with has several."""
    return f"trial_{number:04d}_{ray_id}"


def trial_number(name: str) -> int | None:
    """The number of the trial that a directory of this name is of; None: of none."""
    match = TRIAL_DIRECTORY.fullmatch(name)
    return None if match is None else int(match[1])


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text so that a reader, or a crash, never meets half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with new_file(unfinished) as stream:
        stream.write(text.encode())
    unfinished.replace(path)
