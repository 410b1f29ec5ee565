"""Numbers, values and commands as a reader wants them. Pure; one way of writing for the whole analysis."""

import math
import shlex
from typing import Any

from training.messages import compact as compact
from training.messages import duration as duration
from training.messages import printable as printable
from training.messages import shortened


def percent(share: float, digits: int = 2) -> str:
    """A share in [0, 1] as `97.50 %`; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shown(value: Any) -> str:
    """A value for a table cell; a dash for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def on_one_line(words: Any) -> str:
    """A text without what cannot be printed, and with one space between words; empty for what is no text."""
    text = words if isinstance(words, str) else ""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def fitted(words: str, length: int = 14) -> str:
    """A name on one line that fits beside a figure: without its middle if it has more than `length` characters."""
    return shortened(on_one_line(words), length)


def run_search(*arguments: str) -> str:
    """A command line of run_search.py for a shell."""
    return shlex.join(["python", "run_search.py", *arguments])


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, `11th`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
