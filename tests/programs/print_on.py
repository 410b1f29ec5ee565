"""Prints more than a pipe holds, on a command's console and to stderr, then makes the file that it is given."""

import sys
from pathlib import Path

from search.screen.terminal import Terminal

terminal = Terminal()
for number in range(2_000):
    terminal.print(number, "x" * 100)
print("also an error", file=sys.stderr, flush=True)
Path(sys.argv[1]).touch()
