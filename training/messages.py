"""Words for people: values, names and keys as they stand in messages."""

import difflib
import reprlib
from collections.abc import Iterator
from typing import Any

LONGEST_VALUE = 150  # characters


def unknown_key(path: str, known: Iterator[str] | list[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(path, list(known), n=1, cutoff=0.5)
    return f"{path}: unknown key" + (f"; did you mean {nearest[0]}?" if nearest else "")


def shown(value: Any) -> str:
    """repr of any value, of which only the beginning is written out if it is long."""
    brief = reprlib.Repr()
    brief.maxlevel = 3
    brief.maxlist = brief.maxtuple = brief.maxdict = brief.maxset = 20
    brief.maxstring = brief.maxother = brief.maxlong = LONGEST_VALUE
    return shortened(brief.repr(value), LONGEST_VALUE)


def printable(words: object) -> str:
    """A text on one line: line breaks, escape codes and the like are written as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(words))


def shortened(text: str, length: int) -> str:
    """A text without its middle if it has more characters."""
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


def duration(seconds: float) -> str:
    """`0.42 s`, `48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def compact(number: float) -> str:
    """`812`, `76.0 k`, `1.2 M`, `3.4 G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
