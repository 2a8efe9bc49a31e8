"""Time per op, measured inside the kernels. (OneFlow's own profiler aborts on a CPU.)"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernels import plugin


@dataclass
class Profile:
    """The result of a `profile()` block, available after the block."""

    wall_seconds: float = 0.0
    ops: dict[str, tuple[int, float]] = field(default_factory=dict)  # {op: (calls, seconds)}, slowest first

    def table(self) -> str:
        """Calls, milliseconds and share of the wall-clock time per op, slowest first.

        The last row is all other time: stock kernels, Python, waiting.
        """
        rest = self.wall_seconds - sum(seconds for _, seconds in self.ops.values())
        rows = [(op, str(calls), seconds) for op, (calls, seconds) in self.ops.items()]
        lines = [f"{'op':<40}{'calls':>8}{'ms':>12}{'share':>8}"]
        for op, calls, seconds in [*rows, ("everything else", "", rest)]:
            lines.append(f"{op:<40}{calls:>8}{seconds * 1e3:>12.1f}{seconds / max(self.wall_seconds, 1e-9):>8.1%}")
        return "\n".join(lines)


@contextmanager
def profile() -> Iterator[Profile]:
    """Time the kernels that run inside the block. On stock kernels, only the wall-clock time is measured."""
    result = Profile()
    loaded = plugin.is_loaded()
    if loaded:
        plugin.wait_for_kernels()
        plugin.library().kernels_set_profiling(1)
    start = time.perf_counter()
    yield result
    if loaded:
        plugin.wait_for_kernels()
    result.wall_seconds = time.perf_counter() - start
    if loaded:
        plugin.library().kernels_set_profiling(0)
        ops: dict[str, tuple[int, float]] = {}

        @ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
        def report(op: bytes, calls: int, nanoseconds: int) -> None:
            ops[op.decode()] = (calls, nanoseconds / 1e9)

        plugin.library().kernels_read_profile(report)
        result.ops = dict(sorted(ops.items(), key=lambda item: -item[1][1]))
