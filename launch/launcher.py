"""OneFlow's launcher, `python3 -m oneflow.distributed.launch`: the parent process of the ranks on one host."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_MODULE = b"oneflow.distributed.launch"


def is_launcher(pid: int) -> bool:
    """Whether a process is the launcher; raises OSError if there is no such process."""
    return _MODULE in Path(f"/proc/{pid}/cmdline").read_bytes()


def terminate_launcher(pid: int) -> int | None:
    """Sends SIGTERM to the launcher, which then ends its ranks without a traceback of its own.

    Returns:
        A pidfd to wait for, or None if the process is not a launcher.
    """
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        if is_launcher(pid):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            return handle
    return None


def wait_for_launcher(handle: int | None) -> None:
    """Waits up to 3 seconds until the launcher of that pidfd has ended."""
    if handle is not None:
        select.select([handle], [], [], 3)
