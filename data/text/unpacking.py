"""Converts compressed files, standard input and other pipes to plain files, which can be read at any position."""

import bz2
import gzip
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import zstandard

from utils.atomic_files import atomic_file
from utils.errors import UserError
from utils.progress import Progress

_BLOCK = 1 << 20
_COMPRESSED = {".gz", ".bz2", ".zst"}


def is_stream(file: Path) -> bool:
    """Whether a file can only be read once: standard input ("-") or another pipe."""
    return str(file) == "-" or not file.is_file()


def spool(file: Path, target: Path) -> list[Any]:
    """Copy the content of a pipe to a file; return what identifies it: "-", its size, its checksum."""
    if str(file) == "-" and sys.stdin is None:
        raise UserError("--input_file - reads standard input, but it is closed.")
    size = checksum = 0
    with (
        sys.stdin.buffer if str(file) == "-" else file.open("rb") as source,
        target.open("wb") as sink,
        Progress(f"read {file}", None, "B") as progress,
    ):
        while data := source.read(_BLOCK):
            sink.write(data)
            size, checksum = size + len(data), zlib.crc32(data, checksum)
            progress.update(len(data))
    return ["-", size, checksum]


def unpacked_file(work: Path, number: int) -> Path:
    """The path of the plain file that replaces the input file with this index."""
    return work / f"input-{number:06d}"


def unpack(work: Path, files: Sequence[Path], num_workers: int | None = None) -> dict[Path, str]:
    """Replace compressed files and pipes by plain files, each written once.

    Returns:
        {plain file: its name in messages}, for all files.

    Raises:
        UserError: a file is damaged.
    """
    plain = {number: unpacked_file(work, number) for number, file in enumerate(files) if _must_be_unpacked(file)}
    missing = [number for number, target in plain.items() if not target.exists()]
    stopped = Event()
    with (
        Progress("unpack", sum(files[number].stat().st_size for number in missing), "B") as progress,
        ThreadPoolExecutor(
            num_workers or os.cpu_count()
        ) as pool,  # threads, because the libraries release the interpreter lock
    ):
        try:
            for _ in pool.map(lambda number: _unpack_file(files[number], plain[number], progress, stopped), missing):
                pass
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {plain.get(number, file): str(file) for number, file in enumerate(files)}


def _must_be_unpacked(file: Path) -> bool:
    return file.suffix in _COMPRESSED or is_stream(file)


def _unpack_file(file: Path, target: Path, progress: Progress, stopped: Event) -> None:
    read = 0
    try:
        with file.open("rb") as packed, atomic_file(target) as sink:
            for data in _blocks(packed, file.suffix):
                if stopped.is_set():
                    raise CancelledError
                sink.write(data)
                progress.update(packed.tell() - read)
                read = packed.tell()
    except (EOFError, ValueError, OSError, zlib.error, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk error, not a damaged file
            raise
        raise UserError(f"{file} cannot be unpacked: {error}.") from None


def _blocks(packed: BinaryIO, suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        data = packed.read(_BLOCK)
        while data:  # frame by frame: the library's reader does not notice a truncated file
            frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            while not frame.eof:
                if not data:
                    raise EOFError("it is cut short")
                yield frame.decompress(data)
                data = frame.unused_data or packed.read(_BLOCK)
        return
    with gzip.open(packed) if suffix == ".gz" else bz2.open(packed) as source:
        while data := source.read(_BLOCK):
            yield data
