"""Converts operating system errors to one-sentence messages."""

from __future__ import annotations

import errno
import os

_LONGEST_NAME = 100  # characters of a path that a message shows
_FULL = "complete files are intact; free space and run again"
# errno → what is wrong, what to do
_SENTENCES = {
    errno.ENOSPC: ("no space left on the disk", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the limit on a file's size is reached", _FULL),
    errno.EACCES: ("permission denied", "change its permissions or use another path"),
    errno.EPERM: ("permission denied", "change its permissions or use another path"),
    errno.EROFS: ("the file system is read-only", "use a path that can be written to"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter one"),
    errno.ENOENT: ("it does not exist", "check the path; if it existed, another program has deleted it"),
    errno.ENOTDIR: ("a part of the path is a file where a directory is needed", "use another path"),
    errno.EISDIR: ("it is a directory where a file is needed", "remove it or use another path"),
    errno.EEXIST: ("it already exists", "remove it or use another path"),
    errno.ENOTEMPTY: ("the directory is not empty", "another program writes to it; use another path"),
    errno.ELOOP: ("its symbolic links form a cycle", "use another path"),
    errno.ENOMEM: ("memory ran out", "free memory, raise its limit, or use smaller batches or a smaller model"),
    errno.EMFILE: ("too many files are open", "raise the limit with `ulimit -n`"),
    errno.ESTALE: ("the network file system has lost it", "mount the file system again"),
    errno.EIO: ("the device cannot be read or written", "check the disk"),
}
_MEMORY_PHRASES = ("cannot allocate memory", "failed to map segment", "out of memory", "memoryerror")


def os_error_sentence(error: OSError) -> str:
    """What is wrong, where, and what to do about it."""
    path = error.filename2 or error.filename
    where = f"{shortened(os.fsdecode(path))}: " if isinstance(path, str | bytes | os.PathLike) else ""
    if error.errno in _SENTENCES:
        wrong, remedy = _SENTENCES[error.errno]
        return f"{where}{wrong}: {remedy}."
    return f"{where}{error.strerror or error}."


def loop_sentence(error: BaseException) -> str | None:
    """The sentence for a cycle of symbolic links, which `Path.resolve` reports as a RuntimeError before Python 3.13."""
    if not isinstance(error, RuntimeError) or not str(error).startswith("Symlink loop"):
        return None
    wrong, remedy = _SENTENCES[errno.ELOOP]
    path = str(error).removeprefix("Symlink loop from ").strip("'")
    return f"{shortened(path)}: {wrong}: {remedy}."


def memory_sentence(error: BaseException) -> str | None:
    """The message for an error that means that memory ran out, such as an import that cannot map a library."""
    text = str(error).lower()
    if not isinstance(error, MemoryError) and not any(phrase in text for phrase in _MEMORY_PHRASES):
        return None
    wrong, remedy = _SENTENCES[errno.ENOMEM]
    return f"{wrong}: {remedy}."


def shortened(path: str) -> str:
    """A path of bounded length, for messages."""
    return path if len(path) <= _LONGEST_NAME else f"{path[: _LONGEST_NAME // 2]}...{path[-_LONGEST_NAME // 2 :]}"
