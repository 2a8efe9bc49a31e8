"""The interface of record sets, shared by OFRecord shards, JSON lines and token streams."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.records.features import Schema
from utils.errors import UserError

MAX_RECORD_BYTES = 1 << 26
_MAX_OPEN_FILES = 128


class RecordSet(ABC):
    """The records of some files, by index.

    Attributes:
        name: the path as the user gave it, for messages.
        directory: the directory of its files, and of its vocabulary if it has one.
        shards: its files.
        schema: the features of its records.
        metadata: the content of its `dataset.json`; {} if there is none.
    """

    def __init__(
        self, name: str, directory: Path, shards: Sequence[Path], counts: Sequence[int], schema: Schema,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        self.name = name
        self.directory = directory
        self.shards = list(shards)
        self.schema = schema
        self.metadata = metadata
        self._first = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def shard_starts(self) -> np.ndarray:
        """int64 [shards]: the index of the first record of each shard."""
        return self._first[:-1]

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each record, and its index in that shard: int64 [n] each."""
        indices = np.asarray(indices, np.int64)
        shards = np.searchsorted(self._first, indices, side="right") - 1
        return shards, indices - self._first[shards]

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """uint16 [len(self)]: upper bounds of the records' lengths, if the shards are length bins; else None."""
        longest = [shard.get("max_length") for shard in self.metadata.get("shards", ())][: len(self.shards)]
        if len(longest) < len(self.shards) or None in longest:
            return None
        return np.repeat(np.array(longest, np.uint16), np.diff(self._first))

    def location(self, index: int) -> str:
        """The file of a record and its index in the file, for messages."""
        shard, number = self.locate(np.array(index))
        return f"{self.shards[int(shard)]}: record {int(number)}"

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> RecordSet:
        """The same set with records of these lengths if its format allows any length, else this set.

        Raises:
            UserError: a record is longer.
        """
        return self

    @abstractmethod
    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read the records with these indices, in this order.

        Returns:
            each feature of the schema as [len(indices), L], int32 or float32.

        Raises:
            UserError: a record is corrupt; the message gives its file and its index in the file.
        """


class CorruptRecord(ValueError):
    """A record that does not match the schema; `index` is its row in the batch."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class IndexedRecords(RecordSet):
    """Files of records with different sizes; `offsets` has the start of each record, uint64 [records] per file."""

    def __init__(
        self, name: str, directory: Path, shards: Sequence[Path], offsets: Sequence[np.ndarray], schema: Schema,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__(name, directory, shards, [len(each) for each in offsets], schema, metadata)
        self._offsets = offsets
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()

    @abstractmethod
    def decode(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The features of records, given the bytes of each up to the next; raises CorruptRecord."""

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        shards, numbers = self.locate(indices)
        records: list[bytes] = []
        for shard, number in zip(shards.tolist(), numbers.tolist(), strict=True):
            data, offsets = self.map(shard), self._offsets[shard]
            end = int(offsets[number + 1]) if number + 1 < len(offsets) else len(data)
            records.append(data[int(offsets[number]) : end])
        try:
            return self.decode(records)
        except CorruptRecord as error:
            where = self.location(int(np.asarray(indices)[error.index]))
            raise UserError(f"{where} is corrupt: {error}. Copy or prepare this file again.") from None

    def map(self, shard: int) -> mmap.mmap:
        """A shard's bytes."""
        data = self._open.pop(shard, None)
        if data is None:
            if len(self._open) >= _MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            data = map_file(self.shards[shard])
        self._open[shard] = data
        return data


def map_file(file: Path) -> mmap.mmap:
    """A file's bytes, memory-mapped; raises UserError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
