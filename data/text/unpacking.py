"""Whatever cannot be read from its middle becomes a plain file in the work directory.

That is compressed files, standard input and other pipes, and the text of a line of JSON too long to be read at once.
"""

import bz2
import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import zstandard

from data.preparation.pieces import Progress
from utils.errors import UserError

_BLOCK = 1 << 20
_COMPRESSED = {".gz", ".bz2", ".zst"}


def is_stream(file: Path) -> bool:
    """Whether a file can be read only once: standard input ("-"), or another pipe."""
    return str(file) == "-" or not file.is_file()


def spool(file: Path, target: Path) -> list[Any]:
    """Copies what a pipe gives; returns what tells it from another: its size and checksum."""
    if str(file) == "-" and sys.stdin is None:
        raise UserError("--input_file -: standard input is closed.")
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
    """Where the input's file of this number lies, if it is not where it was."""
    return work / f"input-{number:06d}"


def unpack(work: Path, files: Sequence[Path], num_workers: int | None = None) -> dict[Path, str]:
    """Plain files in place of compressed files and pipes, each written once; {file: what the user calls it}.

    Raises:
        UserError: a file is damaged.
    """
    plain = {number: unpacked_file(work, number) for number, file in enumerate(files) if _must_be_unpacked(file)}
    missing = [number for number, target in plain.items() if not target.exists()]
    stopped = Event()
    with (
        Progress("unpack", sum(files[number].stat().st_size for number in missing), "B") as progress,
        ThreadPoolExecutor(num_workers or os.cpu_count()) as pool,  # the libraries unpack without the interpreter
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
    temporary = target.with_suffix(".tmp")
    read = 0
    try:
        with file.open("rb") as packed, temporary.open("wb") as sink:
            for data in _blocks(packed, file.suffix):
                if stopped.is_set():
                    return
                sink.write(data)
                progress.update(packed.tell() - read)
                read = packed.tell()
    except (EOFError, ValueError, OSError, zlib.error, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
            raise
        raise UserError(f"{file} cannot be unpacked: {error}.") from None
    temporary.rename(target)


def _blocks(packed: BinaryIO, suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        data = packed.read(_BLOCK)
        while data:  # frame by frame: the library's own reader does not notice that a file is cut short
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


# What stands inside a string of JSON (an escape whole, both halves of a pair together), and outside of one.
_INSIDE = re.compile(rb'[^"\\]+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u.{4}|\\.|"', re.DOTALL)
_OUTSIDE = re.compile(rb'[^"{}\[\],:\n]+|.', re.DOTALL)
_LONGEST_ESCAPE = 12


def copy_json_text(source: BinaryIO, field: str, sink: BinaryIO | None = None) -> bool:
    """Reads the JSON object on the line at the source's place, in a little memory however long it is.

    Args:
        field: whose string is written to `sink`.

    Returns:
        whether the object is whole and has that field, with a string.
    """
    data, place, depth, inside = b"", 0, 0, False
    before = b""  # the last mark outside of strings
    name = b""
    found = False
    while True:
        if len(data) - place < _LONGEST_ESCAPE:
            data, place = data[place:] + source.read(_BLOCK), 0
        match = (_INSIDE if inside else _OUTSIDE).match(data, place)
        if not match:
            return False  # it ends too soon
        part, place = match[0], match.end()
        in_key, in_value = depth == 1 and before in (b"{", b","), depth == 1 and before == b":"
        if inside and part != b'"':
            if in_key and len(name) <= len(field) * _LONGEST_ESCAPE:
                name += part
            elif in_value and sink and _decoded(name) == field:
                text = _decoded(part) if part[:1] == b"\\" else None
                sink.write(part if text is None else text.encode("utf-8", "replace"))
        elif part == b'"':
            inside = not inside
            name = b"" if inside and in_key else name
            found = found or (in_value and _decoded(name) == field)
        elif part in b"{[":
            depth, before = depth + 1, part
        elif part in b"}]":
            depth, before = depth - 1, part
            if depth <= 0:
                return found
        elif part in b",:":
            before = part
        elif part == b"\n":
            return False


def _decoded(string: bytes) -> str | None:
    """What the inside of a JSON string means, None if it is none."""
    try:
        return str(json.loads(b'"%s"' % string))
    except ValueError:
        return None
