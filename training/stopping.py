"""How SIGTERM and Ctrl-C stop a run: all ranks stop after the same update, and a checkpoint is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from launch import ranks


class Stopped(Exception):
    """A signal ended the run after `step` updates, and the checkpoint of that step is saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after {step} steps; --resume continues.")


class Interrupted(Exception):
    """A signal ended an evaluation before its end."""


class StopSignals:
    """Collects SIGTERM and SIGINT inside a `with` block.

    A second signal ends a process without other ranks as it would anywhere. With several ranks one Ctrl-C reaches a
    rank more than once, so further signals are ignored; launch/ranks.py ends such a job in bounded time anyway.

    Args:
        any_rank: tells whether a flag is set on any rank, so that all ranks stop at the same step.
    """

    def __init__(self, any_rank: Callable[[bool], bool]) -> None:
        self.received: list[int] = []
        self._any_rank, self._previous = any_rank, dict[signal.Signals, Any]()

    @property
    def active(self) -> bool:
        """Whether signals are being collected."""
        return bool(self._previous)

    def requested(self) -> bool:
        """Whether any rank has received a signal; all ranks must ask together."""
        return self._any_rank(bool(self.received))

    def stopped(self, step: int) -> Stopped:
        """The exception that ends the run after `step` updates."""
        return Stopped(step, self.received[0] if self.received else signal.SIGTERM)  # else another rank received it

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._collect)

    def __exit__(self, *error: object) -> None:
        if not self.received or ranks.size() == 1:
            self._restore()
        self._previous = {}

    def _collect(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if ranks.size() == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
