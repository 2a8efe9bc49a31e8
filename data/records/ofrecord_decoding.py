"""Decodes many serialized OFRecords at once with numpy. See `ofrecord_encoding` for the format.

Shapes: `R` records, `L` the feature's length.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.records.features import Schema
from data.records.ofrecord_encoding import LIST_TAGS
from data.records.record_set import MAX_RECORD_BYTES, CorruptRecord
from utils.errors import UserError


def decode_records(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, schema: Schema) -> dict[str, np.ndarray]:
    """Parse R serialized messages in one buffer.

    Args:
        data: uint8, the buffer.
        starts, ends: [R], the bounds of each message, without its length prefix.

    Returns:
        each feature of the schema as [R, L]; other features of the messages are ignored.

    Raises:
        CorruptRecord: a message is malformed, lacks a feature, or has a feature with the wrong length or type.
    """
    data = np.concatenate([data, np.zeros(16, np.uint8)])  # so that reading a varint at the end stays inside the buffer
    records = len(starts)
    names = {name.encode(): name for name in schema}
    spans = {name: np.full((2, records), -1, np.int64) for name in schema}
    cursor, ends = starts.astype(np.int64), ends.astype(np.int64)
    rows = np.arange(records)
    while len(rows):  # each iteration parses one feature of every record that has one left
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
            here = _expect(data, here, LIST_TAGS[schema[name][0]], at, f"{name} is not of type {schema[name][0]}")
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
    """The length at each position, of at most four bytes, and the position after it."""
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
    _check(byte <= 0x7F, rows, "a length in it is impossible")
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
    # The last byte of every row ends a value, and the number of values is that of the schema.
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
            kind = next(kind for kind, tags in LIST_TAGS.items() if tag in tags)
            payload = dict(_fields(values))[0x0A]
            count = len(payload) // 4 if kind == "float" else sum(byte <= 0x7F for byte in payload)
            schema[fields[0x0A].decode()] = (kind, count)
    except (ValueError, KeyError, IndexError, StopIteration):
        raise UserError(f"{file}: record 0 is not an OFRecord of int32 and float features.") from None
    return schema


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each field of a message with only length-delimited fields."""
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
