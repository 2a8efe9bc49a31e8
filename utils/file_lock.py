"""One process at a time: a lock on a file that the system releases when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_file(path: Path, *, inherited: bool = False) -> bool:
    """Lock a file until this process ends; return False if another process holds the lock.

    A file system without locks counts as locked: there is no way to know better.

    Args:
        path: created if it is missing.
        inherited: child processes hold the lock too (`flock`), and opening the file again does not release it. By
            default only this process does (`lockf`), and it must not open the file again.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT)  # stays open: closing it would release the lock
    try:
        (fcntl.flock if inherited else fcntl.lockf)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        pass
    return True
