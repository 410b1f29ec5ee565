"""A trial's events for TensorBoard: its curves, and its row in the table of hyperparameters, however it ends.

Events are written as they come: what storage refuses now is tried again with what comes next. SummaryWriter writes in a
thread of its own, which a full disk ends with a traceback.

Every trial describes all columns of the table, since TensorBoard asks one trial, whichever, for them. Written without
tensorboard.plugins.hparams.api, which needs TensorFlow, and SummaryWriter.add_hparams, which makes a run of its own.
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from search.space import SearchSpace, value_at

OBJECTIVE_CURVE = "accuracy/val"  # the table's metric
CURVES = {  # fields of an EpochResult, by tag
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "accuracy/train": "train_accuracy",
    OBJECTIVE_CURVE: "val_accuracy",
    "learning_rate": "learning_rate",
    "epoch_seconds": "epoch_seconds",
}
_files = count()


class EventFile:
    """One file of events in a directory, which is made. It is a convenience: no error of storage is raised."""

    def __init__(self, directory: Path) -> None:
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_files)}"
        self.path = directory / name
        self.unwritten = [Event(wall_time=time.time(), file_version="brain.Event:2")]

    def add(self, *summaries: Summary, step: int = 0) -> None:
        """Write summaries of one step."""
        self.unwritten += [Event(wall_time=time.time(), step=step, summary=summary) for summary in summaries]
        with contextlib.suppress(OSError):
            self._write()

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one point of each curve, by tag."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.add(Summary(value=points), step=step)

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        records = b"".join(map(_record, self.unwritten))
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as stream:
                stream.write(records)
        except OSError:
            os.truncate(self.path, size)  # half a record would hide all that follow it
            raise
        self.unwritten.clear()


def _record(event: Event) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # half a second, while workers start

    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def hparam_values(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial has at every path that can be drawn: the base's value where a path is inactive."""
    return {name: params.get(name, value_at(space.base, name)) for name in space.distributions()}


def hparam_columns(space: SearchSpace) -> list[api_pb2.HParamInfo]:
    """The table's columns: every path that can be drawn, with the values it can have.

    A column has values of one type, or TensorBoard could not sort it: mixed ones become text.
    """
    columns = []
    for name, distribution in space.distributions().items():
        values = [*_domain(distribution), value_at(space.base, name)]
        column = api_pb2.HParamInfo(name=name, type=_column_type(values), differs=not distribution.single())
        if isinstance(distribution, CategoricalDistribution):
            column.domain_discrete.extend(dict.fromkeys(_cell(column, value) for value in values))
        elif column.type == api_pb2.DATA_TYPE_FLOAT64:
            column.domain_interval.min_value, column.domain_interval.max_value = min(values), max(values)
        columns.append(column)
    return columns


def _domain(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The choices, or the bounds."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low, distribution.high


def _column_type(values: list[Any]) -> int:
    if all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_FLOAT64
    return api_pb2.DATA_TYPE_STRING


def _cell(column: api_pb2.HParamInfo, value: Any) -> bool | float | str:
    """A value as its column takes it: in one of text true, false and none are written as in a search's YAML."""
    if column.type != api_pb2.DATA_TYPE_STRING:
        return value
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def experiment(columns: list[api_pb2.HParamInfo]) -> Summary:
    """Which columns TensorBoard's table has."""
    metric = api_pb2.MetricInfo(name=api_pb2.MetricName(tag=OBJECTIVE_CURVE), display_name=CURVES[OBJECTIVE_CURVE])
    content = api_pb2.Experiment(hparam_infos=columns, metric_infos=[metric])
    return _hparams_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=content))


def session_start(columns: list[api_pb2.HParamInfo], values: Mapping[str, Any]) -> Summary:
    """A trial's row in TensorBoard's table; its name there is the trial's directory."""
    content = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for column in columns:
        value, cell = _cell(column, values[column.name]), content.hparams[column.name]
        if isinstance(value, bool):
            cell.bool_value = value
        elif isinstance(value, str):
            cell.string_value = value
        else:
            cell.number_value = value
    return _hparams_summary(
        metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=content)
    )


def session_end(trial: FrozenTrial) -> Summary:
    """How a trial ended; TensorBoard knows no more than success and failure."""
    status = api_pb2.STATUS_FAILURE if trial.state == TrialState.FAIL else api_pb2.STATUS_SUCCESS
    content = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _hparams_summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=content))


def _hparams_summary(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
