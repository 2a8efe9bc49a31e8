"""OFRecord shards: writing them, and reading any record of a directory of them by its number.

A shard is a run of (int64 little-endian length, serialized `OFRecord`). The message maps a feature's name to a packed
list of int32 or float. Both directions work on many records at once in numpy, because protobuf's own classes spend
most of a preparation's time. Layout: `oneflow/core/record/record.proto`.

Shapes: `R` records, `L` the feature's length.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from data.records.record_set import CorruptRecord, IndexedRecords, Schema, map_file
from utils.errors import UserError

DATASET_JSON = "dataset.json"
INDEX_FILE = "offsets.u64"  # where each record begins in its shard, shard after shard: big sets open at once
FORMAT_VERSION = 1
MAX_RECORD_BYTES = 1 << 26
_BATCH = 1024  # records coded at once
_TABLE_SIZE = 1 << 16  # token ids and lengths are looked up
_LIST_TAGS = {"float": (0x12,), "int32": (0x22, 0x2A)}  # field of Feature; int64 lists are read as int32
_DTYPES = {"float": np.float32, "int32": np.int32}


# {feature: [R, L]} and their schema → the bytes of R records, and the R + 1 offsets of the records in them
Encode = Callable[[Mapping[str, np.ndarray], Schema], tuple[bytes, np.ndarray]]


class _Column(NamedTuple):
    """A part of R serialized records."""

    runs: np.ndarray  # void [R], or [1] where it is alike in all: its bytes, and more where another record has more
    sizes: int | np.ndarray  # how many bytes it has, int64 [R]


class Shard(NamedTuple):
    """One complete file of records."""

    file: str
    records: int
    crc32: int
    bytes: int
    max_length: int | None = None  # of its records, in sets whose shards are bins of lengths
    offsets: np.ndarray | Path | None = None  # [records] uint64, or a file of them; unknown in sets made elsewhere


def pretraining_schema(seq_length: int, max_predictions_per_seq: int) -> Schema:
    """The features of a pretraining record."""
    return {
        "input_ids": ("int32", seq_length),
        "input_mask": ("int32", seq_length),
        "segment_ids": ("int32", seq_length),
        "masked_lm_positions": ("int32", max_predictions_per_seq),
        "masked_lm_ids": ("int32", max_predictions_per_seq),
        "masked_lm_weights": ("float", max_predictions_per_seq),
        "next_sentence_labels": ("int32", 1),
    }


def squad_schema(seq_length: int, is_training: bool) -> Schema:
    """The features of a question-answering window, with its answer or with its number."""
    ends: Schema = (
        {"start_positions": ("int32", 1), "end_positions": ("int32", 1)}
        if is_training
        else {"unique_ids": ("int32", 1)}
    )
    return {name: ("int32", seq_length) for name in ("input_ids", "input_mask", "segment_ids")} | ends


# ---- one batch of records <-> bytes ---------------------------------------------------------------------------------


def encode_records(examples: Mapping[str, np.ndarray], schema: Schema) -> tuple[bytes, np.ndarray]:
    """Serializes R records, each with its length before it.

    Args:
        examples: each feature of the schema as [R, L].

    Returns:
        the bytes, and the R + 1 offsets of the records in them.
    """
    records = len(next(iter(examples.values())))
    columns: list[_Column] = []
    total: int | np.ndarray = 0
    for name, (kind, length) in schema.items():
        values = np.asarray(examples[name])
        if values.ndim != 2 or values.shape[1] != length:
            raise ValueError(f"{name} has shape {values.shape}, not [R, {length}]")
        parts = [_varints(values) if kind == "int32" else _table(np.asarray(values, "<f4"))]
        size, alike = parts[0].sizes, b""
        # Each level of the message is a tag, the length of what follows, and what follows.
        key = b"\n" + bytes([len(name)]) + name.encode()
        for head in (b"\n", bytes(_LIST_TAGS[kind][:1]), key + b"\x12", b"\n"):
            if isinstance(size, int):
                alike = head + _varint(size) + alike
                size = parts[0].runs.itemsize + len(alike)
            else:
                parts[:0] = [_constant(head), _varints(size[:, None])]
                size = size + len(head) + parts[1].sizes
        columns += [_constant(alike), *parts] if alike else parts
        total = total + size
    sizes = np.array(np.broadcast_to(total, records), "<i8")
    columns.insert(0, _table(sizes[:, None]))
    # A row has room for any record. Parts are copied in the width of the longest, and what is too much is overwritten.
    rows = np.empty((records, sum(column.runs.itemsize for column in columns)), np.uint8)
    ends = np.arange(records) * rows.shape[1]
    for column in columns:
        _runs(rows, column.runs.itemsize)[ends] = column.runs
        ends += column.sizes
    content = rows.tobytes()
    texts = [content[end - size - 8 : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
    return b"".join(texts), np.append(0, np.cumsum(sizes + 8)).astype(np.uint64)


def _constant(data: bytes) -> "_Column":
    return _Column(np.frombuffer(data, f"V{len(data)}"), len(data))


def _table(values: np.ndarray) -> "_Column":
    runs: np.ndarray = np.ascontiguousarray(values).view(f"V{values.itemsize * values.shape[1]}")
    return _Column(runs[:, 0], runs.itemsize)


def _runs(data: np.ndarray | bytes, width: int) -> np.ndarray:
    """The `width` bytes from each place on."""
    size = len(data) if isinstance(data, bytes) else data.nbytes
    return np.ndarray(size - width + 1, f"V{width}", data, strides=(1,))


@lru_cache(1 << 10)
def _varint(value: int) -> bytes:
    data, used = _compute_varints(np.array([value], np.uint64), 10)
    return data[used.view(bool)].tobytes()


def _varints(values: np.ndarray) -> "_Column":
    """Values [R, L] as varints of seven bits a byte."""
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least >= 0 and most < 0x80:
        return _table(values.astype(np.uint8))
    if least >= 0 and most < _TABLE_SIZE:
        data = _varint_table(2 if most < 1 << 14 else 4).take(values)
        # A byte is used that is a number's first, or that follows one whose highest bit is set.
        used = ((data & data.dtype.type(0x80808080 % (1 << 8 * data.itemsize))) << 1 | 1).view(np.uint8)
        data = data.view(np.uint8)
    else:
        data, used = _compute_varints(values.astype(np.int64).view(np.uint64), 10)
    if used.all():
        return _table(data.reshape(len(values), -1))
    kept = np.flatnonzero(used.view(bool))  # as indices: an array of bool copies run by run, and these runs are short
    borders = np.searchsorted(kept, np.arange(len(values) + 1) * (used.size // len(values)))
    sizes = np.diff(borders)
    content = data.ravel().take(kept).tobytes() + bytes(int(sizes.max()))
    return _Column(_runs(content, int(sizes.max()))[borders[:-1]], sizes)


@lru_cache
def _varint_table(width: int) -> np.ndarray:
    """The varint of each small value as one integer, whose bytes it is."""
    values = np.arange(min(1 << 7 * width, _TABLE_SIZE), dtype=np.uint64)
    table: np.ndarray = np.ascontiguousarray(_compute_varints(values, width)[0]).view(f"<u{width}")[:, 0]
    return table


def _compute_varints(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes uint8 [..., width] of the varints of uint64 values, and which of them count, uint8."""
    rest = values[..., None] >> (7 * np.arange(width, dtype=np.uint64))
    used = rest > 0
    used[..., 0] = True
    return ((rest & np.uint64(0x7F)) | (rest > 0x7F) * np.uint64(0x80)).astype(np.uint8), used.astype(np.uint8)


def decode_records(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, schema: Schema) -> dict[str, np.ndarray]:
    """Parses R serialized messages that lie in one buffer.

    Args:
        data: uint8, the buffer.
        starts, ends: [R], where each message lies in it (its length prefix is not part of it).

    Returns:
        each feature of the schema as [R, L]; features the schema does not name are passed over.

    Raises:
        CorruptRecord: a message is malformed, lacks a feature, or has one of another length or type.
    """
    data = np.concatenate([data, np.zeros(16, np.uint8)])  # a varint at the very end may be looked at in full
    records = len(starts)
    names = {name.encode(): name for name in schema}
    spans = {name: np.full((2, records), -1, np.int64) for name in schema}
    cursor, ends = starts.astype(np.int64), ends.astype(np.int64)
    rows = np.arange(records)
    while len(rows):  # one feature of every record that has one left
        end = ends[rows]
        position = _expect(data, cursor[rows], (0x0A,), rows)
        size, position = _read_varint(data, position, rows)
        entry_end = _inside(position + size, end, rows)
        cursor[rows] = entry_end

        position = _expect(data, position, (0x0A,), rows)
        key_size, position = _read_varint(data, position, rows)
        value = _inside(position + key_size, entry_end, rows)
        position = _expect(data, value, (0x12,), rows)
        size, position = _read_varint(data, position, rows)
        _equal(position + size, entry_end, rows)
        for encoded, name in names.items():
            (same,) = np.nonzero(key_size == len(encoded))
            if not len(same):
                continue
            letters = data[(value - key_size)[same][:, None] + np.arange(len(encoded))]
            same = same[(letters == np.frombuffer(encoded, np.uint8)).all(1)]
            if not len(same):
                continue
            at, here, stop = rows[same], position[same], entry_end[same]
            here = _expect(data, here, _LIST_TAGS[schema[name][0]], at, f"{name} is not of type {schema[name][0]}")
            size, here = _read_varint(data, here, at)
            _equal(here + size, stop, at)
            here = _expect(data, here, (0x0A,), at, f"{name} is empty or not packed")
            size, here = _read_varint(data, here, at)
            _equal(here + size, stop, at)
            spans[name][:, at] = here, stop
        rows = rows[cursor[rows] < ends[rows]]
    result: dict[str, np.ndarray] = {}
    for name, (kind, length) in schema.items():
        first, last = spans[name]
        _check(first >= 0, np.arange(records), f"it has no feature {name}")
        decode = _read_floats if kind == "float" else _read_ints
        result[name] = decode(data, first, last, length, name)
    return result


def _check(good: np.ndarray, rows: np.ndarray, reason: str) -> None:
    if not good.all():
        raise CorruptRecord(int(rows[np.argmin(good)]), reason)


def _expect(
    data: np.ndarray,
    position: np.ndarray,
    tags: tuple[int, ...],
    rows: np.ndarray,
    reason: str = "it is not an OFRecord",
) -> np.ndarray:
    found = data[position]
    _check(np.logical_or.reduce([found == tag for tag in tags]), rows, reason)
    return position + 1


def _inside(position: np.ndarray, end: np.ndarray, rows: np.ndarray) -> np.ndarray:
    _check((position <= end) & (position >= 0), rows, "a length in it runs past its end")
    return position


def _equal(position: np.ndarray, end: np.ndarray, rows: np.ndarray) -> None:
    _check(position == end, rows, "the lengths in it disagree")


def _read_varint(data: np.ndarray, position: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A length at each position, of at most four bytes, and the position after it."""
    byte = data[position]
    value = (byte & 0x7F).astype(np.int64)
    position = position + 1
    for shift in (7, 14, 21):
        more = byte > 0x7F
        if not more.any():
            return value, position
        byte = np.where(more, data[position], 0)
        value += (byte & 0x7F).astype(np.int64) << shift
        position = position + more
    _check(byte <= 0x7F, rows, "a length in it is absurd")
    return value, position


def _read_floats(data: np.ndarray, first: np.ndarray, last: np.ndarray, length: int, name: str) -> np.ndarray:
    count = (last - first) // 4
    _check(last - first == 4 * length, np.arange(len(first)), f"{name} does not have {length} values")
    return data[first[:, None] + np.arange(4 * length)].view("<f4").reshape(len(count), length)


def _read_ints(data: np.ndarray, first: np.ndarray, last: np.ndarray, length: int, name: str) -> np.ndarray:
    rows = np.arange(len(first))
    sizes = last - first
    reason = f"{name} does not have {length} values"
    if (sizes == length).all():  # one byte each, as in a mask
        values = data[first[:, None] + np.arange(length)]
        _check((values <= 0x7F).all(1), rows, reason)
        return values.astype(np.int32)
    stops = np.cumsum(sizes)
    row_start = stops - sizes
    payload = data[np.arange(stops[-1]) + np.repeat(first - row_start, sizes)]
    is_last = payload <= 0x7F
    (value_end,) = np.nonzero(is_last)
    # Every row's last byte ends a value, and as many values end in it as the schema says.
    _check((sizes > 0) & (payload[np.maximum(stops, 1) - 1] <= 0x7F), rows, reason)
    ended = np.concatenate([[0], np.cumsum(is_last)])
    _check(ended[stops] - ended[row_start] == length, rows, reason)
    width = np.diff(value_end, prepend=-1)
    _check((width <= 10).reshape(len(rows), length).all(1), rows, f"a value of {name} is out of range")
    begin = value_end - width + 1
    values = (payload[begin] & 0x7F).astype(np.int64)
    for byte in range(1, int(width.max())):
        (longer,) = np.nonzero(width > byte)
        values[longer] |= (payload[begin[longer] + byte] & 0x7F).astype(np.int64) << (7 * byte)
    values = values.reshape(len(rows), length)
    narrow = values.astype(np.int32)
    _check((narrow == values).all(1), rows, f"a value of {name} is out of range")
    return narrow


# ---- writing --------------------------------------------------------------------------------------------------------


class ShardWriter:
    """Writes one shard beside its final name; leaving the `with` block without an error puts it there.

    `count` and `crc32` follow what was written; `shard` describes the finished file. `encode` decides the format.
    """

    def __init__(self, path: str | Path, schema: Schema, encode: Encode | None = None) -> None:
        self.path = Path(path)
        self.schema = schema
        self._encode = encode or encode_records
        self.count = 0
        self.crc32 = 0
        self._bytes = 0
        self._offsets: list[np.ndarray] = []
        self._rows: list[Mapping[str, np.ndarray]] = []

    def __enter__(self) -> "ShardWriter":
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb", buffering=1 << 20)
        return self

    def write(self, example: Mapping[str, np.ndarray]) -> None:
        """Adds one record: each feature of the schema as [L]."""
        self._rows.append(example)
        self.count += 1
        if len(self._rows) == _BATCH:
            self._flush_rows()

    def write_batch(self, examples: Mapping[str, np.ndarray]) -> None:
        """Adds R records: each feature of the schema as [R, L]."""
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
        try:
            if kind is None:
                self._flush_rows()
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self.path)
        finally:
            try:
                self._file.close()  # which writes what is left, and fails on a full disk
            finally:
                self._temporary.unlink(missing_ok=True)

    @property
    def shard(self) -> Shard:
        """What `write_dataset_json` needs to know, once the file is in its place."""
        offsets = np.concatenate([np.empty(0, np.uint64), *self._offsets])
        return Shard(self.path.name, self.count, self.crc32, self._bytes, offsets=offsets)


def write_atomically(path: str | Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file, at once or part by part, beside its final name, syncs and renames it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_dataset_json(directory: str | Path, *, schema: Schema, shards: Sequence[Shard], **metadata: Any) -> None:
    """Writes the index and, last of all, `dataset.json`, whose presence means that the set is complete."""
    directory = Path(directory)
    offsets = [shard.offsets for shard in shards if shard.offsets is not None]
    if len(offsets) == len(shards):
        read = (np.fromfile(each, np.uint64) if isinstance(each, Path) else each for each in offsets)
        write_atomically(directory / INDEX_FILE, (each.astype("<u8").tobytes() for each in read))
    content = {
        "format_version": FORMAT_VERSION,
        "schema": {name: list(kind) for name, kind in schema.items()},
        "records": sum(shard.records for shard in shards),
        "shards": [
            {name: value for name, value in shard._asdict().items() if name != "offsets" and value is not None}
            for shard in shards
        ],
        **metadata,
    }
    write_atomically(directory / DATASET_JSON, json.dumps(content, indent=1).encode() + b"\n")


# ---- reading --------------------------------------------------------------------------------------------------------


class OFRecords(IndexedRecords):
    """OFRecord shards; opened by `open_records`."""

    def decode(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        for place, record in enumerate(records):
            if int.from_bytes(record[:8], "little", signed=True) != len(record) - 8:
                raise CorruptRecord(place, "its length is not what the index says")
        ends = np.cumsum([len(record) for record in records])
        starts = np.concatenate([[0], ends[:-1]]) + 8
        return decode_records(np.frombuffer(b"".join(records), np.uint8), starts, ends, self.schema)


def open_records(path: str | Path, *, parts: int | None = None) -> OFRecords:
    """Opens a directory of shards, named `part-N` or `part-0000N`, or one shard.

    With `dataset.json` nothing is read but the index; a set without it is scanned once.

    Args:
        parts: take the first so many shards only.

    Raises:
        UserError: nothing there, an unfinished preparation, too few shards, or a shard that is empty, truncated or
            corrupt (the message names the file and the record).
    """
    path = Path(path)
    directory, files, metadata = find_shards(path, parts=parts)
    offsets = read_index(directory, files, metadata) if metadata and path.is_dir() else list(map(scan_offsets, files))
    schema = stored_schema(metadata) if metadata else infer_schema(files[0])
    if not sum(map(len, offsets)):
        raise UserError(f"{path} holds no record")
    return OFRecords(str(path), directory, files, offsets, schema, metadata)


def find_shards(path: Path, suffix: str = "", *, parts: int | None = None) -> tuple[Path, list[Path], dict[str, Any]]:
    """The directory of a set, its files, and the content of its `dataset.json`; of a file, just this one.

    Args:
        suffix: how the names of shards of this format end.

    Raises:
        UserError: nothing there, an unfinished preparation, or fewer than `parts` shards.
    """
    if path.is_file():
        metadata = read_dataset_json(path.parent)
        listed = [shard for shard in metadata.get("shards", ()) if shard["file"] == path.name]
        return path.parent, [path], {**metadata, "shards": listed} if listed else {}
    files = shard_files(path, suffix)
    if not files:
        unfinished = any(path.glob(".*.tmp")) or (path / WORK_DIRECTORY).exists()
        more = "its preparation was interrupted: run it again" if unfinished else "make some with prepare_data.py"
        raise UserError(f"{path} holds no part-… files; {more}")
    if (path / WORK_DIRECTORY).exists():
        raise UserError(f"the preparation of {path} was interrupted: run it again with the same flags")
    if parts is not None and len(files) < parts:
        raise UserError(f"{path} holds {len(files)} part-… files, and {parts} were asked for")
    metadata = read_dataset_json(path)
    count = len(metadata.get("shards", ()))
    if parts is None and len(files) < count:
        raise UserError(f"{path} holds {len(files)} of the {count} part-… files that {DATASET_JSON} lists; copy them")
    return path, files[:parts], metadata


def stored_schema(metadata: Mapping[str, Any]) -> Schema:
    """The schema that `dataset.json` tells."""
    return {name: (kind, length) for name, (kind, length) in metadata["schema"].items()}


WORK_DIRECTORY = ".work"  # unfinished pieces of a preparation; gone when it is complete


def shard_files(directory: Path, suffix: str = "") -> list[Path]:
    """The shards of a directory in the order of their numbers."""
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory of records; make one with prepare_data.py")
    pattern = re.compile(rf"part-(\d+){re.escape(suffix)}")
    numbered = [(match, file) for file in directory.iterdir() if (match := pattern.fullmatch(file.name))]
    files = [file for _, file in sorted(numbered, key=lambda pair: int(pair[0][1]))]
    missing = sorted(set(range(len(files))) - {int(match[1]) for match, _ in numbered})
    if missing:
        raise UserError(f"{directory} lacks part {missing[0]} of its part-… files; copy or prepare it again")
    return files


def read_dataset_json(directory: Path) -> dict[str, Any]:
    """The content of `dataset.json`, or {} where there is none."""
    file = directory / DATASET_JSON
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
        if content["format_version"] != FORMAT_VERSION:
            raise UserError(f"{file} has format {content['format_version']}; this program reads {FORMAT_VERSION}")
        schema = content["schema"].items()
        if not all(kind in _DTYPES and 0 < int(length) < MAX_RECORD_BYTES for _, (kind, length) in schema):
            raise ValueError
        if not all(int(shard["records"]) >= 0 and int(shard["bytes"]) >= 0 for shard in content["shards"]):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged; prepare the set again, or delete it to have the shards scanned") from None
    return content


def read_index(
    directory: Path,
    files: Sequence[Path],
    metadata: Mapping[str, Any],
    scan: Callable[[Path], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Where the records of each file begin, uint64 [records] each.

    Args:
        metadata: the content of `dataset.json`, which files must agree with.
        scan: finds the offsets of a file where the set has no index (default: `scan_offsets`).

    Raises:
        UserError: a file is not the one that was listed.
    """
    listed = metadata["shards"]
    for file, shard in zip(files, listed, strict=False):
        size = file.stat().st_size
        if file.name != shard["file"] or size != shard["bytes"]:
            raise UserError(
                f"{file} is not the file that {DATASET_JSON} lists ({size} bytes, not {shard['bytes']}): it was cut "
                "short or replaced; copy or prepare it again"
            )
    if len(files) > len(listed):
        raise UserError(f"{files[len(listed)]} is not listed in {DATASET_JSON}; is it left over from another set?")
    index = directory / INDEX_FILE
    if not index.exists():
        return list(map(scan or scan_offsets, files))
    if index.stat().st_size != 8 * metadata["records"]:
        raise UserError(f"{index} does not belong to this set; delete it to have the shards scanned")
    offsets = np.memmap(index, "<u8", "r") if metadata["records"] else np.empty(0, np.uint64)
    counts = [shard["records"] for shard in listed]
    return [offsets[end - count : end] for count, end in zip(counts, np.cumsum(counts), strict=True)][: len(files)]


def scan_offsets(file: Path) -> np.ndarray:
    """Walks over a shard's lengths; returns where each record begins, uint64 [records].

    Raises:
        UserError: the file is empty or truncated, or a length is absurd.
    """
    size = file.stat().st_size
    if not size:
        raise UserError(f"{file} is empty; copy or prepare it again")
    offsets = np.empty(1024, np.uint64)
    count, position = 0, 0
    with map_file(file) as data:
        while position < size:
            length = int.from_bytes(data[position : position + 8], "little", signed=True)
            if not 0 < length <= MAX_RECORD_BYTES and position + 8 <= size:
                raise UserError(
                    f"{file}: record {count} is corrupt: its length is {length}; copy or prepare this file again"
                )
            if position + 8 + length > size:
                raise UserError(f"{file} is cut short in record {count}; copy or prepare it again")
            if count == len(offsets):
                offsets = np.concatenate([offsets, np.empty_like(offsets)])
            offsets[count] = position
            count += 1
            position += 8 + length
    return offsets[:count].copy()


def infer_schema(file: Path) -> Schema:
    """The features of a shard's first record."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        record = stream.read(min(length, MAX_RECORD_BYTES))
    schema: Schema = {}
    try:
        for _, entry in _fields(record):
            fields = dict(_fields(entry))
            ((tag, values),) = _fields(fields[0x12])
            kind = next(kind for kind, tags in _LIST_TAGS.items() if tag in tags)
            payload = dict(_fields(values))[0x0A]
            count = len(payload) // 4 if kind == "float" else sum(byte <= 0x7F for byte in payload)
            schema[fields[0x0A].decode()] = (kind, count)
    except (ValueError, KeyError, IndexError, StopIteration):
        raise UserError(f"{file}: record 0 is not an OFRecord of int32 and float features") from None
    return schema


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each field of a message that holds length-delimited fields only."""
    position = 0
    while position < len(message):
        tag, position, size, shift = message[position], position + 1, 0, 0
        while True:
            byte = message[position]
            size |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte <= 0x7F:
                break
        if tag & 7 != 2 or position + size > len(message):
            raise ValueError
        yield tag, message[position : position + size]
        position += size
