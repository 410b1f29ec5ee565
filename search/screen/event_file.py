"""A trial's events for TensorBoard, written as they come: what storage refuses now is tried again with what comes next.

SummaryWriter writes in a thread of its own, which a full disk ends with a traceback.
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

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
