"""Command lines that checks advise, and the changes of the space that stand in them."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from analysis.reading.results import SearchResults
from analysis.text import run_search
from search.space import SpaceEntry


def new_search(results: SearchResults, values: Mapping[str, Any]) -> str:
    """The command for a new search that differs in some paths and starts from what this one knows."""
    settings = [part for path, value in values.items() for part in ("--set", f"{path}={as_yaml(value)}")]
    return run_search("--config", results.file("search.yaml"), "--warm-start", results.place, *settings)


def resume(results: SearchResults, *amount: str) -> str:
    """The command that goes on with a search, maybe to another amount."""
    return run_search("--resume", results.place, *amount)


def as_yaml(value: Any) -> str:
    """A number or an entry of the space in one line."""
    if isinstance(value, SpaceEntry):
        value = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()


def with_end(entry: SpaceEntry, is_high: bool, bound: float) -> SpaceEntry:
    """An entry with one end moved; of choices, with one more."""
    if entry.choice is not None:
        return entry.model_copy(update={"choice": (*entry.choice, bound) if is_high else (bound, *entry.choice)})
    low, high = entry.integer or entry.real or (bound, bound)
    field = "real" if entry.integer is None else "integer"
    return entry.model_copy(update={field: (low, bound) if is_high else (bound, high)})
