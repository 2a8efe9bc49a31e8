"""A corpus as a stream of token ids in memory-mapped files, whose windows of any length are the records.

The files are numpy arrays (`part-00000.npy`, uint16 if the vocabulary allows it) of joined documents, without special
tokens or padding. A record is `[CLS]`, the next S - 2 tokens of its file, `[SEP]`; a shorter remainder at the end of a
file is not used. Masks are drawn during training.
"""

from __future__ import annotations

import io
import tokenize
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.records.dataset_json import stored_schema
from data.records.features import UNMASKED, schema_of
from data.records.record_set import RecordSet
from data.records.shards import find_shards
from utils.atomic_files import atomic_file
from utils.errors import UserError

SUFFIX = ".npy"
_TOKENS_AT_ONCE = 1 << 22
_MIN_SEQ_LENGTH = 5


class TokenWindows(RecordSet):
    """The windows of token streams, opened by `open_token_windows`."""

    def __init__(
        self, name: str, directory: Path, shards: list[Path], streams: list[np.ndarray], seq_length: int,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        if seq_length < _MIN_SEQ_LENGTH:
            raise UserError(f"--seq_length {seq_length} is too small: it must be at least {_MIN_SEQ_LENGTH}.")
        counts = [len(stream) // (seq_length - 2) for stream in streams]
        super().__init__(name, directory, shards, counts, schema_of(UNMASKED, seq_length), metadata)
        self._streams, self._inside = streams, seq_length - 2
        if not len(self):
            raise UserError(
                f"--seq_length {seq_length} is too large: {name} has fewer tokens than one record needs. Lower it."
            )

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> TokenWindows:
        return TokenWindows(self.name, self.directory, self.shards, self._streams, seq_length, self.metadata)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        located = zip(*(each.tolist() for each in self.locate(indices)), strict=True)
        windows = [(self._streams[shard], number) for shard, number in located]
        return read_windows(windows, self._inside, self.metadata["cls_id"], self.metadata["sep_id"])


def read_windows(
    windows: Sequence[tuple[np.ndarray, int]], inside: int, cls_id: int, sep_id: int
) -> dict[str, np.ndarray]:
    """Reads windows, given as (stream, index), each with `inside` tokens between its special tokens."""
    input_ids = np.empty((len(windows), inside + 2), np.int32)
    input_ids[:, [0, -1]] = cls_id, sep_id
    for row, (stream, number) in enumerate(windows):
        input_ids[row, 1:-1] = stream[number * inside : (number + 1) * inside]
    return {"input_ids": input_ids, "input_mask": np.ones_like(input_ids), "segment_ids": np.zeros_like(input_ids)}


def write_stream(
    path: Path, files: Iterable[Path], tokens: Sequence[int], first: int, count: int, token_bytes: int
) -> int:
    """Write a part of a corpus's tokens as one numpy file; return the file's CRC-32.

    Args:
        path: the file.
        files: the corpus; each begins with token ids of `token_bytes` bytes.
        tokens: the number of token ids in each file.
        first, count: the range of tokens to write.
        token_bytes: the size of a token id.
    """
    dtype = np.dtype(f"<u{token_bytes}")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": (count,)})
    with atomic_file(path) as output:
        output.write(header.getvalue())
        crc32 = zlib.crc32(header.getvalue())
        for file, size in zip(files, tokens, strict=True):
            begin, end = max(first, 0), min(first + count, size)
            for start in range(begin, end, _TOKENS_AT_ONCE):
                length = min(_TOKENS_AT_ONCE, end - start)
                block = np.fromfile(file, dtype, length, offset=start * token_bytes).tobytes()
                output.write(block)
                crc32 = zlib.crc32(block, crc32)
            first -= size
    return crc32


def open_token_windows(path: str | Path, *, parts: int | None = None) -> TokenWindows:
    """Open a directory of streams, or one stream; records have the prepared length until `resized` changes it.

    Raises:
        UserError: there are no files, `dataset.json` is missing, or a file is truncated.
    """
    directory, files, metadata = find_shards(Path(path), SUFFIX, parts=parts)
    if not {"cls_id", "sep_id"} <= metadata.keys() or "input_ids" not in metadata["schema"]:
        raise UserError(f"{path} has no dataset.json with its special tokens: prepare it with prepare_data.py.")
    sizes = {shard["file"]: shard["bytes"] for shard in metadata["shards"]}
    streams = []
    for file in files:
        if file.stat().st_size != sizes.get(file.name):
            raise UserError(f"{file} is not the file that dataset.json lists: copy or prepare it again.")
        streams.append(_read_stream(file))
    return TokenWindows(str(path), directory, files, streams, stored_schema(metadata)["input_ids"][1], metadata)


def _read_stream(file: Path) -> np.ndarray:
    """Maps the token ids of one file; raises UserError if its header is damaged."""
    try:
        stream: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, LookupError, EOFError, OverflowError, SyntaxError, RecursionError, MemoryError,
            tokenize.TokenError) as error:  # fmt: skip
        raise UserError(f"{file} is damaged ({error}): copy or prepare it again.") from None
    if stream.ndim != 1 or stream.dtype.kind != "u":
        raise UserError(
            f"{file} is damaged ({stream.dtype} numbers of shape {stream.shape}): copy or prepare it again."
        )
    return stream
