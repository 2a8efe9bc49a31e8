"""A corpus as one stream of token ids in memory-mapped files, and its windows of any length as records.

The files are numpy's own (`part-00000.npy`, uint16 where the vocabulary allows it): documents joined, no special
tokens, no padding. A record is `[CLS]`, the next S - 2 tokens of its file, `[SEP]`; what is left at a file's end is not
used. Masks are drawn while training.
"""

from __future__ import annotations

import io
import os
import tokenize
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.records.ofrecord import find_shards, stored_schema
from data.records.record_set import RecordSet, Schema
from utils.errors import UserError

SUFFIX = ".npy"
_TOKENS_AT_ONCE = 1 << 22
_SHORTEST = 5


class TokenWindows(RecordSet):
    """The windows of token streams; opened by `open_token_windows`."""

    def __init__(
        self, name: str, directory: Path, shards: list[Path], streams: list[np.ndarray], seq_length: int,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        if seq_length < _SHORTEST:
            raise UserError(f"--seq_length {seq_length} leaves no room for tokens: give {_SHORTEST} or more.")
        counts = [len(stream) // (seq_length - 2) for stream in streams]
        super().__init__(name, directory, shards, counts, token_schema(seq_length), metadata)
        self._streams, self._inside = streams, seq_length - 2
        if not len(self):
            raise UserError(f"{name} has fewer tokens than a record of --seq_length {seq_length} takes: lower it.")

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> TokenWindows:
        return TokenWindows(self.name, self.directory, self.shards, self._streams, seq_length, self.metadata)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        places = zip(*(each.tolist() for each in self.place(indices)), strict=True)
        windows = [(self._streams[shard], number) for shard, number in places]
        return read_windows(windows, self._inside, self.metadata["cls_id"], self.metadata["sep_id"])


def token_schema(seq_length: int) -> Schema:
    """The features of a window."""
    return {name: ("int32", seq_length) for name in ("input_ids", "input_mask", "segment_ids")}


def read_windows(
    windows: Sequence[tuple[np.ndarray, int]], inside: int, cls_id: int, sep_id: int
) -> dict[str, np.ndarray]:
    """The records of windows (stream, number), each with so many tokens `inside` its special ones."""
    input_ids = np.empty((len(windows), inside + 2), np.int32)
    input_ids[:, [0, -1]] = cls_id, sep_id
    for row, (stream, number) in enumerate(windows):
        input_ids[row, 1:-1] = stream[number * inside : (number + 1) * inside]
    return {"input_ids": input_ids, "input_mask": np.ones_like(input_ids), "segment_ids": np.zeros_like(input_ids)}


def write_stream(
    path: Path, files: Iterable[Path], tokens: Sequence[int], first: int, count: int, token_bytes: int
) -> int:
    """Writes a part of a corpus's tokens as one array, beside its final name first; returns the file's CRC-32.

    Args:
        files: begin with token ids of `token_bytes` bytes each.
        tokens: how many of them, for each file.
        first, count: which of all tokens.
    """
    dtype = np.dtype(f"<u{token_bytes}")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": (count,)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as output:
            output.write(header.getvalue())
            crc32 = zlib.crc32(header.getvalue())
            for file, size in zip(files, tokens, strict=True):
                here, end = max(first, 0), min(first + count, size)
                for start in range(here, end, _TOKENS_AT_ONCE):
                    length = min(_TOKENS_AT_ONCE, end - start)
                    block = np.fromfile(file, dtype, length, offset=start * token_bytes).tobytes()
                    output.write(block)
                    crc32 = zlib.crc32(block, crc32)
                first -= size
            output.flush()
            os.fsync(output.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return crc32


def open_token_windows(path: str | Path, *, parts: int | None = None) -> TokenWindows:
    """Opens a directory of streams, or one of them; records are as long as it was prepared for, see `resized`.

    Raises:
        UserError: nothing there, no `dataset.json`, or a file that is cut short.
    """
    directory, files, metadata = find_shards(Path(path), SUFFIX, parts=parts)
    if not {"cls_id", "sep_id"} <= metadata.keys():
        raise UserError(f"{path} has no dataset.json that tells its vocabulary: prepare it with prepare_data.py")
    sizes = {shard["file"]: shard["bytes"] for shard in metadata["shards"]}
    streams = []
    for file in files:
        if file.stat().st_size != sizes.get(file.name):
            raise UserError(f"{file} is not the file that dataset.json lists; copy or prepare it again")
        streams.append(_read_stream(file))
    return TokenWindows(str(path), directory, files, streams, stored_schema(metadata)["input_ids"][1], metadata)


def _read_stream(file: Path) -> np.ndarray:
    """Maps the token ids of one file; raises UserError if its header is damaged."""
    try:
        stream: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, LookupError, EOFError, OverflowError, SyntaxError, RecursionError, MemoryError,
            tokenize.TokenError) as error:  # fmt: skip
        raise UserError(f"{file} is damaged ({error}); copy or prepare it again") from None
    if stream.ndim != 1 or stream.dtype.kind != "u":
        raise UserError(f"{file} holds {stream.dtype} numbers of shape {stream.shape}, not a stream of token ids")
    return stream
