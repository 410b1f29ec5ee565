"""Numbers, values and commands as a reader wants them. Pure; one way of writing for the whole analysis."""

import math
import shlex
from typing import Any

from training.messages import compact as compact
from training.messages import duration as duration
from training.messages import printable as printable


def percent(share: float, digits: int = 2) -> str:
    """A share in [0, 1] as `97.50 %`."""
    return f"{100 * share:.{digits}f} %"


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


def run_search(*arguments: str) -> str:
    """A command line of run_search.py for a shell."""
    return shlex.join(["python", "run_search.py", *arguments])
