"""Whether a place holds a run that can be analysed: answered before anything that takes seconds is imported."""

from pathlib import Path

from search.record.run_directory import CONFIG, JOURNAL


class AnalysisError(Exception):
    """What cannot be analysed: says what is wrong, and the remedy."""


def check_directory(run: Path) -> None:
    """Refuse what is no run directory. Raises AnalysisError."""
    try:
        is_there = run.is_dir()
    except OSError as error:  # too long a name
        raise AnalysisError(
            f"{str(run)[:100]!r} is not a usable path ({error.strerror}). Name a run directory."
        ) from None
    if not is_there:
        raise AnalysisError(f"there is no directory {run}. Name the run directory that the search printed.")
    if not (run / CONFIG).is_file() or not (run / JOURNAL).is_file():
        raise AnalysisError(
            f"{run} is no run directory: it needs {CONFIG} and {JOURNAL}. Name the one a search printed."
        )
