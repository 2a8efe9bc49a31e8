"""Shows the progress of a long task on standard error."""

from __future__ import annotations

import shutil
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """A bar with rate and time left on a terminal; elsewhere a plain line every ten seconds."""

    def __init__(self, title: str, total: int | None, unit: str, restored: int = 0) -> None:
        """
        Args:
            title: the name of the task.
            total: the total amount of work, in `unit`; None if unknown.
            unit: such as "B" or "records".
            restored: the part done by an earlier start, which does not count towards the rate.
        """
        self._terminal = sys.stderr.isatty()
        # tqdm draws nothing on a terminal that reports a size of 0; this function never returns 0.
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm(
            total=total, initial=restored, desc=title, unit=unit, unit_scale=True, file=sys.stderr,
            disable=not self._terminal, leave=True, ncols=columns, nrows=lines,
        )  # fmt: skip
        self._title, self._total, self._unit, self._restored = title, total, unit, restored
        self._count, self._started, self._printed = restored, time.monotonic(), time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def update(self, count: int) -> None:
        """Add to the completed amount."""
        self._count += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._terminal and now - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = now
            self._print_line(now - self._started)

    def _print_line(self, seconds: float) -> None:
        rate = (self._count - self._restored) / max(seconds, 1e-9)
        total, left = "", ""
        if self._total is not None:
            total = f" of {self._total:,}"
            left = f", {(self._total - self._count) / rate if rate else 0:,.0f} s left"
        speed = f"{rate:,.0f} {self._unit}/s"
        print(f"{self._title}: {self._count:,}{total} {self._unit}, {speed}{left}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
