"""OFRecord shards as a record set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.records.dataset_json import read_index, stored_schema
from data.records.ofrecord_decoding import decode_records, infer_schema
from data.records.record_set import MAX_RECORD_BYTES, CorruptRecord, IndexedRecords, map_file
from data.records.shards import find_shards
from utils.errors import UserError


class OFRecords(IndexedRecords):
    """A set of OFRecord shards, opened by `open_records`."""

    def decode(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        for row, record in enumerate(records):
            if int.from_bytes(record[:8], "little", signed=True) != len(record) - 8:
                raise CorruptRecord(row, "its length differs from the index")
        ends = np.cumsum([len(record) for record in records])
        starts = np.concatenate([[0], ends[:-1]]) + 8
        return decode_records(np.frombuffer(b"".join(records), np.uint8), starts, ends, self.schema)


def open_records(path: str | Path, *, parts: int | None = None) -> OFRecords:
    """Open a directory of shards, named `part-N` or `part-0000N`, or one shard.

    A set with `dataset.json` opens immediately; one without it is scanned.

    Args:
        parts: use only this many shards, the first ones.

    Raises:
        UserError: there are no records, too few shards, or an unfinished preparation, or a shard is empty, truncated or
            corrupt. The message gives the file and the record.
    """
    path = Path(path)
    directory, files, metadata = find_shards(path, parts=parts)
    if metadata and path.is_dir():
        offsets = read_index(directory, files, metadata, scan_offsets)
    else:
        offsets = list(map(scan_offsets, files))
    schema = stored_schema(metadata) if metadata else infer_schema(files[0])
    if not sum(map(len, offsets)):
        raise UserError(f"{path} contains no records.")
    return OFRecords(str(path), directory, files, offsets, schema, metadata)


def scan_offsets(file: Path) -> np.ndarray:
    """Where each record of a shard begins, uint64 [records], found by reading the lengths.

    Raises:
        UserError: the file is empty or truncated, or a length is impossible.
    """
    size = file.stat().st_size
    if not size:
        raise UserError(f"{file} is empty: copy or prepare it again.")
    offsets = np.empty(1024, np.uint64)
    count, position = 0, 0
    with map_file(file) as data:
        while position < size:
            length = int.from_bytes(data[position : position + 8], "little", signed=True)
            if not 0 < length <= MAX_RECORD_BYTES and position + 8 <= size:
                raise UserError(
                    f"{file}: record {count} is corrupt: its length is {length}. Copy or prepare this file again."
                )
            if position + 8 + length > size:
                raise UserError(f"{file} ends inside record {count}: copy or prepare it again.")
            if count == len(offsets):
                offsets = np.concatenate([offsets, np.empty_like(offsets)])
            offsets[count] = position
            count += 1
            position += 8 + length
    return offsets[:count].copy()
