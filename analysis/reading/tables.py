"""Trials and epochs as DataFrames, from an Optuna study's trials and the learning curves of their checkpoints.

Knows nothing of files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from search.record.endings import SOURCE, SOURCE_NUMBER, Ending, ending
from training.loop import EpochResult

Curve = Mapping[int, EpochResult]  # epoch, counted from 1 -> its result

TRIAL_DTYPES = {
    "number": "int64",
    "state": "object",
    "stopped_by": "object",
    "reason": "object",
    "val_accuracy": "float64",
    "epochs": "int64",
    "seconds": "float64",
    "started_at": "datetime64[us, UTC]",
    "finished_at": "datetime64[us, UTC]",
    "num_params": "Int64",
    "multiply_adds": "Int64",
}
EPOCH_DTYPES = {
    "number": "int64",
    "epoch": "int64",
    "train_loss": "float64",
    "train_accuracy": "float64",
    "val_loss": "float64",
    "val_accuracy": "float64",
    "learning_rate": "float64",
    "epoch_seconds": "float64",
    "finished_at": "datetime64[us, UTC]",
    "images_per_second": "float64",
}
QUARTER_HOUR = timedelta(minutes=15)  # offsets of the world's time zones are multiples of it


def trials_table(
    trials: Sequence[FrozenTrial], curves: Mapping[int, Curve], space: Iterable[str], sources: bool = False
) -> pd.DataFrame:
    """One row for each trial, by number; a column for each path of the space, NaN or None if it was inactive.

    val_accuracy is that of the last epoch trained, `seconds` the sum of its epochs' (NaN if no curve is left).
    Trials that repeat or continue those of a search have its number for them in a column `source_number`.
    """
    zone = journal_zone(trials, curves)
    paths = parameter_columns(trials, space)
    rows = [_trial_row(trial, curves.get(trial.number, {}), zone) for trial in trials]
    table = typed_table(rows, TRIAL_DTYPES)
    if sources:
        table["source"] = pd.Series([trial.user_attrs.get(SOURCE) for trial in trials], dtype="object")
    if any(SOURCE_NUMBER in trial.user_attrs for trial in trials):
        numbers = [trial.user_attrs.get(SOURCE_NUMBER) for trial in trials]
        table["source_number"] = pd.Series(numbers, dtype="Int64")
    for path in paths:
        table[path] = _parameter_column([trial.params.get(path) for trial in trials])
    return table


def epochs_table(trials: Sequence[FrozenTrial], curves: Mapping[int, Curve]) -> pd.DataFrame:
    """One row for each epoch of each trial. An epoch that only the journal knows has its val_accuracy alone."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        curve = curves.get(trial.number, {})
        for epoch in sorted({*curve, *trial.intermediate_values}):
            known = {"epoch": epoch, "val_accuracy": trial.intermediate_values.get(epoch)}
            rows.append({"number": trial.number, **(asdict(curve[epoch]) if epoch in curve else known)})
    return typed_table(rows, EPOCH_DTYPES)


def typed_table(rows: list[dict[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """A DataFrame with exactly these columns and types, also without rows."""
    columns = {}
    for name, dtype in dtypes.items():
        values = [row.get(name) for row in rows]
        if "datetime" in dtype:
            times = pd.to_datetime(pd.Series(values, dtype="object"), utc=True, format="ISO8601")
            columns[name] = times.dt.as_unit("us")
        else:
            columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)


def hyperparameters(trials: pd.DataFrame) -> list[str]:
    """The columns of a trials table that the search drew; one for each layer of a path per layer."""
    return [name for name in trials.columns if name not in (*TRIAL_DTYPES, SOURCE, SOURCE_NUMBER)]


def endings(trials: pd.DataFrame) -> pd.Series:
    """The Ending of each row of a trials table, with the table's index."""
    found: list[Ending] = [ending(*each) for each in zip(trials["state"], trials["stopped_by"], strict=True)]
    return pd.Series(found, index=trials.index, dtype="object")


def last_epoch(trial: FrozenTrial, curve: Curve) -> tuple[int, float]:
    """(epochs trained, val_accuracy after the last of them), from the journal or the curve, whichever knows more."""
    reported = max(trial.intermediate_values, default=0)
    if curve and max(curve) > reported:
        return max(curve), curve[max(curve)].val_accuracy
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.value is not None:
        return reported, trial.value
    return reported, trial.intermediate_values.get(reported, float("nan"))


def journal_zone(trials: Sequence[FrozenTrial], curves: Mapping[int, Curve]) -> tzinfo | None:
    """The time zone of the search's machine; None: this machine's.

    A journal holds local times without a zone, the epochs hold UTC: if a trial ended with an epoch the two give it.
    """
    offsets = []
    for trial in trials:
        curve = curves.get(trial.number)
        if trial.datetime_complete is not None and curve:
            ended = datetime.fromisoformat(curve[max(curve)].finished_at).astimezone(UTC).replace(tzinfo=None)
            offsets.append(trial.datetime_complete - ended)
    if not offsets:
        return None
    offset = round(sorted(offsets)[len(offsets) // 2] / QUARTER_HOUR) * QUARTER_HOUR
    return timezone(offset) if abs(offset) < timedelta(days=1) else None


def parameter_columns(trials: Sequence[FrozenTrial], space: Iterable[str]) -> list[str]:
    """The paths of the space in its order; of a path per layer, the layers that were drawn."""
    drawn = {path for trial in trials for path in trial.params}
    columns: list[str] = []
    for path in space:
        layers = [name for name in drawn if name.rpartition(".")[0] == path and name.rpartition(".")[2].isdecimal()]
        columns += sorted(layers, key=lambda name: int(name.rpartition(".")[2])) or [path]
    return columns + sorted(drawn - set(columns))


def _trial_row(trial: FrozenTrial, curve: Curve, zone: tzinfo | None) -> dict[str, Any]:
    epochs, val_accuracy = last_epoch(trial, curve)
    return {
        "number": trial.number,
        "state": trial.state.name,
        "stopped_by": trial.user_attrs.get("stopped_by"),
        "reason": trial.user_attrs.get("reason"),
        "val_accuracy": val_accuracy,
        "epochs": epochs,
        "seconds": sum(result.epoch_seconds for result in curve.values()) if curve else None,
        "started_at": _utc(trial.datetime_start, zone),
        "finished_at": _utc(trial.datetime_complete, zone),
        "num_params": trial.user_attrs.get("num_params"),
        "multiply_adds": trial.user_attrs.get("multiply_adds"),
    }


def _utc(moment: datetime | None, zone: tzinfo | None) -> datetime | None:
    if moment is None:
        return None
    return (moment if zone is None else moment.replace(tzinfo=zone)).astimezone(UTC)


def _parameter_column(values: list[Any]) -> pd.Series:
    numeric = all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)
    drawn = [value for value in values if value is not None]
    if numeric and drawn:
        return pd.Series(values)  # int64, or float64 with NaN if one is missing
    return pd.Series(values, dtype="bool" if values and all(isinstance(v, bool) for v in values) else "object")
