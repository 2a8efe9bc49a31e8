"""Writes and finds the files of a record set: `part-00000`, `part-00001`, …"""

import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data.records.dataset_json import DATASET_JSON, Shard, read_dataset_json
from data.records.features import Schema
from data.records.ofrecord_encoding import encode_records
from utils.atomic_files import LEFTOVER_SUFFIX, atomic_file
from utils.errors import UserError

WORK_DIRECTORY = ".work"  # unfinished pieces of a preparation; removed when it is complete
_BATCH = 1024  # records encoded at once

# {feature: [R, L]} and their schema → the bytes of R records, and the R + 1 offsets of the records in them
Encode = Callable[[Mapping[str, np.ndarray], Schema], tuple[bytes, np.ndarray]]


class ShardWriter:
    """Writes one shard, which gets its name when the `with` block ends without an error.

    Attributes:
        count, crc32: of the records written so far.
        shard: the finished file, for `write_dataset_json`.
    """

    def __init__(self, path: str | Path, schema: Schema, encode: Encode = encode_records) -> None:
        self.path = Path(path)
        self.schema = schema
        self._encode = encode
        self.count = 0
        self.crc32 = 0
        self._bytes = 0
        self._offsets: list[np.ndarray] = []
        self._rows: list[Mapping[str, np.ndarray]] = []

    def __enter__(self) -> "ShardWriter":
        self._stack = ExitStack()
        self._file = self._stack.enter_context(atomic_file(self.path, buffering=1 << 20))
        self._stack.push(self._flush_if_complete)  # runs before the file is closed and renamed
        return self

    def write(self, example: Mapping[str, np.ndarray]) -> None:
        """Add one record: each feature of the schema as [L]."""
        self._rows.append(example)
        self.count += 1
        if len(self._rows) == _BATCH:
            self._flush_rows()

    def write_batch(self, examples: Mapping[str, np.ndarray]) -> None:
        """Add R records: each feature of the schema as [R, L]."""
        self._flush_rows()
        records = len(next(iter(examples.values())))
        for start in range(0, records, _BATCH):
            self._put({name: values[start : start + _BATCH] for name, values in examples.items()})
        self.count += records

    def _flush_rows(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._put({name: np.stack([np.asarray(row[name]) for row in rows]) for name in self.schema})

    def _put(self, examples: Mapping[str, np.ndarray]) -> None:
        data, offsets = self._encode(examples, self.schema)
        self._file.write(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self._offsets.append(offsets[:-1] + np.uint64(self._bytes))
        self._bytes += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _flush_if_complete(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush_rows()

    @property
    def shard(self) -> Shard:
        """The finished file, for `write_dataset_json`."""
        offsets = np.concatenate([np.empty(0, np.uint64), *self._offsets])
        return Shard(self.path.name, self.count, self.crc32, self._bytes, offsets=offsets)


def find_shards(path: Path, suffix: str = "", *, parts: int | None = None) -> tuple[Path, list[Path], dict[str, Any]]:
    """The directory of a set, its files, and the content of its `dataset.json`; if `path` is a file, only this file.

    Args:
        suffix: the suffix of this format's shards.

    Raises:
        UserError: there are no shards, fewer than `parts` shards, or an unfinished preparation.
    """
    if path.is_file():
        metadata = read_dataset_json(path.parent)
        listed = [shard for shard in metadata.get("shards", ()) if shard["file"] == path.name]
        return path.parent, [path], {**metadata, "shards": listed} if listed else {}
    files = shard_files(path, suffix)
    if not files:
        unfinished = any(path.glob(f".*{LEFTOVER_SUFFIX}")) or (path / WORK_DIRECTORY).exists()
        more = "its preparation was interrupted: run it again" if unfinished else "make some with prepare_data.py"
        raise UserError(f"{path} contains no part-… files: {more}.")
    if (path / WORK_DIRECTORY).exists():
        raise UserError(f"the preparation of {path} was interrupted: run it again with the same flags.")
    if parts is not None and len(files) < parts:
        raise UserError(f"{path} contains {len(files)} part-… files, but {parts} were requested.")
    metadata = read_dataset_json(path)
    count = len(metadata.get("shards", ()))
    if parts is None and len(files) < count:
        raise UserError(
            f"{path} has {len(files)} of the {count} part-… files that {DATASET_JSON} lists: copy the missing ones."
        )
    return path, files[:parts], metadata


def shard_files(directory: Path, suffix: str = "") -> list[Path]:
    """The shards of a directory in the order of their numbers; raises UserError if one is missing."""
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory of records: make one with prepare_data.py.")
    pattern = re.compile(rf"part-(\d+){re.escape(suffix)}")
    numbered = [(match, file) for file in directory.iterdir() if (match := pattern.fullmatch(file.name))]
    files = [file for _, file in sorted(numbered, key=lambda pair: int(pair[0][1]))]
    missing = sorted(set(range(len(files))) - {int(match[1]) for match, _ in numbered})
    if missing:
        raise UserError(f"{directory} lacks part {missing[0]} of its part-… files: copy it, or prepare the set again.")
    return files
