"""File locks that the system releases when the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError

LOCK_FILE = ".lock"
_held: dict[Path, int] = {}  # directories that this process has locked, and the open lock file of each


def lock_file(path: Path, *, inherited: bool = False) -> bool:
    """Lock a file until this process ends; return False if another process holds the lock.

    A file system without locks counts as locked, because the state cannot be determined.

    Args:
        path: created if it is missing.
        inherited: whether child processes also hold the lock (`flock`), and opening the file again does not release it.
            By default only this process does (`lockf`), and it must not open the file again.
    """
    return _lock(path, inherited=inherited) is not None  # the file stays open: closing it would release the lock


def _lock(path: Path, *, inherited: bool) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        (fcntl.flock if inherited else fcntl.lockf)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        pass
    return handle


@contextmanager
def locked_directory(directory: Path, refusal: str) -> Iterator[None]:
    """Create a directory and keep other processes out of it inside the block, with a lock on its file `.lock`.

    Nested blocks of one process share the lock. The file is removed at the end, and so is the directory if it was
    created here and is empty.

    Raises:
        UserError: another process holds the lock; `refusal` is the message.
        OSError: the directory cannot be made or written to.
    """
    directory = directory.resolve()
    if directory in _held:
        yield
        return
    made = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    handle = _lock(directory / LOCK_FILE, inherited=False)
    if handle is None:
        raise UserError(refusal)
    _held[directory] = handle
    try:
        # The previous owner may have removed the file after it was opened here and before it was locked.
        if not _is_file(directory / LOCK_FILE, handle):
            raise UserError(refusal)
        yield
    finally:
        del _held[directory]
        if _is_file(directory / LOCK_FILE, handle):
            with suppress(OSError):
                (directory / LOCK_FILE).unlink()
        for each in made:
            with suppress(OSError):  # it is not empty
                each.rmdir()
        os.close(handle)


def _is_file(path: Path, handle: int) -> bool:
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except OSError:
        return False


def check_still_there(directory: Path) -> None:
    """Raise UserError if a directory that this process has locked was deleted or replaced."""
    handle = _held.get(directory.resolve())
    if handle is None:
        return
    if not _is_file(directory / LOCK_FILE, handle):
        raise UserError(
            f"{directory} was deleted or replaced while this run was writing to it: start the run again, and keep "
            "other programs from deleting its directory."
        )
