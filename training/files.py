"""Files that are written anew."""

from pathlib import Path
from typing import BinaryIO


def new_file(path: Path) -> BinaryIO:
    """Open a file to be written that is new: never one behind a link that lay in wait."""
    path.unlink(missing_ok=True)
    return path.open("xb")
