"""The console that a command prints on."""

import contextlib
import os
import sys
from pathlib import Path

from rich.console import Console


class Terminal(Console):
    """A console whose end is not that of the search: if its pipe is closed, as by `head`, the rest goes unprinted."""

    def __init__(self) -> None:
        super().__init__(width=None if sys.stdout.isatty() else 160)

    def on_broken_pipe(self) -> None:
        if os.path.samestat(os.fstat(1), os.fstat(2)):
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()
