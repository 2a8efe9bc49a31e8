"""Writes TensorBoard's event files."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

_FLUSH_SECONDS = 10.0  # how long a reader may wait for new values


class EventFile:
    """One event file, written in the calling thread.

    tensorboardX's SummaryWriter writes in a thread of its own. On a full disk that thread ends, and the next calls wait
    for it forever.

    Args:
        directory: where the file goes; it is created.
        first_step: TensorBoard hides what earlier files have for this and later steps; 0 hides nothing.

    Raises:
        OSError: from every method, if the file cannot be written.
    """

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        self._flushed = 0.0
        if first_step:
            self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, name: str, value: float) -> None:
        """Writes one value."""
        self._write(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is buffered, and closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
