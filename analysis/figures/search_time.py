"""When things happened in a search: minutes of searching, without the pauses between an interruption and its resume."""

from typing import Any

import pandas as pd


def pauses(started: list[pd.Timestamp], moments: pd.Series) -> dict[pd.Timestamp, pd.Timestamp]:
    """Stop -> resume for each resume: from the last thing that happened before it. `moments` are UTC.

    Of resumes with nothing between them the last counts.
    """
    before = {resume: moments[moments < resume] for resume in sorted(started)[1:]}
    return {earlier.max(): resume for resume, earlier in before.items() if len(earlier)}


def search_minutes(moments: pd.Series, start: pd.Timestamp, stops: dict[pd.Timestamp, pd.Timestamp]) -> pd.Series:
    """Minutes of searching from `start` to each moment, pauses left out."""
    minutes = (moments - start).dt.total_seconds() / 60
    for stop, resume in stops.items():
        inside = moments.clip(stop, resume)  # type: ignore[call-overload]
        minutes -= (inside - stop).dt.total_seconds() / 60
    return minutes


def start_times(environment: list[dict[str, Any]]) -> list[pd.Timestamp]:
    """When the search was started and resumed (UTC); entries without a readable time are left out."""
    times = pd.to_datetime([str(entry.get("started_at")) for entry in environment], utc=True, errors="coerce")
    return [time for time in times if not pd.isna(time)]


def epoch_moments(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.Series:
    """When each epoch finished (UTC), at the latest when its trial did; epochs without either are left out."""
    ends = epochs["number"].map(trials.set_index("number")["finished_at"])
    return pd.concat([epochs["finished_at"], ends], axis=1).min(axis=1).dropna()
