"""Checkpoints of a run directory by trial number. Nothing of Ray's own files is read, and nothing is unpickled."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from search.record.run_directory import trial_number
from training.messages import printable


def checkpoint_directories(run: Path, number: int | None = None) -> Iterator[tuple[int, Path]]:
    """(trial number, checkpoint directory) of one trial or all, in the order of their names."""
    for directory in sorted(run.glob("trial_*/checkpoint_*")):
        found = trial_number(directory.parent.name)
        if found is not None and number in (None, found) and directory.is_dir():
            yield found, directory


def find_checkpoint(
    run: Path, number: int, fetch: Callable[[Path], None] | None = None
) -> tuple[Path | None, list[str]]:
    """A trial's intact checkpoint with the most epochs, over all its directories, and what is wrong with the others.

    `fetch` brings the tensor files of a checkpoint here, if they are not here, before they are read.
    """
    from training.checkpoint import newest_checkpoint  # which imports torch

    return newest_checkpoint((directory for _, directory in checkpoint_directories(run, number)), fetch)


def usable_checkpoint(run: Path, number: int) -> Path | None:
    """The checkpoint of `find_checkpoint`; what is wrong with others is printed."""
    found, problems = find_checkpoint(run, number)
    for problem in problems:
        print(f"trial {number}: {printable(problem)}", file=sys.stderr)
    return found
