"""What a check says, and the commands that checks advise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from analysis.reading.results import SearchResults
from analysis.text import run_search
from search.space import SpaceEntry

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


def new_search(results: SearchResults, values: Mapping[str, Any]) -> str:
    """The command for a new search that differs in some paths and starts from what this one knows."""
    settings = [part for path, value in values.items() for part in ("--set", f"{path}={as_yaml(value)}")]
    return run_search("--config", results.file("search.yaml"), "--warm-start", results.place, *settings)


def as_yaml(value: Any) -> str:
    """A number or an entry of the space in one line."""
    if isinstance(value, SpaceEntry):
        value = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()
