"""A corpus as one stream of token ids in memory-mapped files, and its windows of any length as records.

The files are numpy's own (`part-00000.npy`, uint16 where the vocabulary allows it): documents joined, no special
tokens, no padding. A record is `[CLS]`, the next S - 2 tokens of its file, `[SEP]`; what is left at a file's end is not
used. Masks are drawn while training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.ofrecord import find_shards, stored_schema
from data.record_set import RecordSet, Schema
from utils.errors import UserError

SUFFIX = ".npy"


class TokenWindows(RecordSet):
    """The windows of token streams; opened by `open_token_windows`."""

    def __init__(
        self, name: str, directory: Path, shards: list[Path], streams: list[np.ndarray], seq_length: int,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        counts = [len(stream) // (seq_length - 2) for stream in streams]
        super().__init__(name, directory, shards, counts, token_schema(seq_length), metadata)
        self._streams, self._inside = streams, seq_length - 2
        if not len(self):
            raise UserError(f"{name} has fewer tokens than a record of --seq_length {seq_length} takes: lower it.")

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> TokenWindows:
        return TokenWindows(self.name, self.directory, self.shards, self._streams, seq_length, self.metadata)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        shards, numbers = self.place(indices)
        input_ids = np.empty((len(shards), self._inside + 2), np.int32)
        input_ids[:, [0, -1]] = self.metadata["cls_id"], self.metadata["sep_id"]
        for row, (shard, number) in enumerate(zip(shards.tolist(), numbers.tolist(), strict=True)):
            input_ids[row, 1:-1] = self._streams[shard][number * self._inside : (number + 1) * self._inside]
        return {
            "input_ids": input_ids,
            "input_mask": np.ones_like(input_ids),
            "segment_ids": np.zeros_like(input_ids),
        }


def token_schema(seq_length: int) -> Schema:
    """The features of a window."""
    return {name: ("int32", seq_length) for name in ("input_ids", "input_mask", "segment_ids")}


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
        streams.append(np.load(file, mmap_mode="r", allow_pickle=False))
    return TokenWindows(str(path), directory, files, streams, stored_schema(metadata)["input_ids"][1], metadata)
