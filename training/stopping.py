"""Stops a run on signals or a closed output: all ranks stop after the same update, and a checkpoint is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from launch import ranks

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the terminal or the ssh connection is lost
OUTPUT_CLOSED = signal.SIGPIPE  # the signal that ends other programs when their output pipe is closed


class Stopped(Exception):
    """A signal ended the run after `step` updates, and a checkpoint of that step was saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        reason = "stopped by " + signal.Signals(signal_number).name
        if signal_number == OUTPUT_CLOSED:
            reason = "stopped because the output pipe was closed,"
        super().__init__(f"{reason} after {step} steps; --resume continues.")


class Interrupted(Exception):
    """A signal interrupted an evaluation."""


class StopSignals:
    """Collects SIGTERM, SIGINT and SIGHUP inside a `with` block; ignored signals (`nohup`) stay ignored.

    Without other ranks, a second signal has its default effect. With several ranks, one Ctrl-C reaches a rank more than
    once, so further signals are ignored; launch/watcher.py ends such a job in bounded time.

    Args:
        any_rank: returns whether a flag is set on any rank, so that all ranks stop at the same step.
    """

    def __init__(self, any_rank: Callable[[bool], bool]) -> None:
        self.received: list[int] = []
        self._any_rank, self._previous = any_rank, dict[signal.Signals, Any]()

    @property
    def active(self) -> bool:
        """Whether signals are being collected."""
        return bool(self._previous)

    def requested(self) -> bool:
        """Whether any rank has received a signal; all ranks must call this together."""
        return self._any_rank(bool(self.received))

    def output_closed(self) -> None:
        """Records that the output pipe is closed."""
        self.received.append(OUTPUT_CLOSED)

    def stopped(self, step: int) -> Stopped:
        """The exception that ends the run after `step` updates."""
        return Stopped(step, self.received[0] if self.received else signal.SIGTERM)  # else another rank received it

    def __enter__(self) -> None:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
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
