"""Writes files and directories that are either complete or absent: write to a temporary name, sync, rename.

A reader never sees a partial file, even if the writer is killed. Leftovers of a killed writer are named
`.NAME.PID.tmp`.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LEFTOVER_SUFFIX = ".tmp"


def temporary_path(path: str | Path) -> Path:
    """The temporary name for writing `path`: a hidden file in the same directory."""
    path = Path(path)
    if not path.name:  # "/" and "."
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.{os.getpid()}{LEFTOVER_SUFFIX}")


@contextmanager
def atomic_file(path: str | Path, *, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error, and is deleted otherwise."""
    temporary = temporary_path(path)
    try:
        with temporary.open("wb", buffering) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file's content, given whole or in parts."""
    with atomic_file(path) as file:
        file.writelines([content] if isinstance(content, bytes) else content)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty directory that replaces `path` when the block ends without an error, and is deleted otherwise."""
    path = Path(path)
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            sync(written)
        remove_directory(path)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_directory(path: str | Path) -> None:
    """Delete a directory, if it exists; it is renamed first, so that a partly deleted one never looks complete.

    A symbolic link is removed, but not its target.
    """
    path = Path(path)
    if path.is_symlink():
        path.unlink()
        return
    leaving = temporary_path(path.with_name(f"{path.name}.old"))
    shutil.rmtree(leaving, ignore_errors=True)
    if path.exists():
        path.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def remove(path: str | Path) -> None:
    """Delete a file, a directory or a symbolic link (never what it points to), if it exists."""
    path = Path(path)
    remove_directory(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
