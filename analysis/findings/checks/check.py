"""What a check says."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["act", "look", "unknown", "fine"]
VERDICTS: tuple[Verdict, ...] = ("act", "look", "unknown", "fine")  # what needs action first


@dataclass(frozen=True)
class Check:
    """One question to a search. `command` is a line for a shell, or None if none would help."""

    name: str
    verdict: Verdict
    finding: str
    advice: str
    command: str | None = None


def unknown(name: str, why: str) -> Check:
    return Check(name, "unknown", why, "Nothing can be said yet.")


def fine(name: str, finding: str) -> Check:
    return Check(name, "fine", finding, "Nothing to do.")
