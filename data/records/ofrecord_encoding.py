"""Encodes many OFRecords at once with numpy.

A shard is a sequence of (int64 little-endian length, serialized `OFRecord`). The message maps a feature's name to a
packed list of int32 or float. With protobuf's own classes, encoding would dominate the preparation time.
Layout: `oneflow/core/record/record.proto`.

Shapes: `R` records, `L` the feature's length.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.records.features import Schema

LIST_TAGS = {"float": (0x12,), "int32": (0x22, 0x2A)}  # fields of the message Feature; int64 lists are read as int32
_TABLE_SIZE = 1 << 16  # smaller values, such as token ids and lengths, have their varints in a table


class _Column(NamedTuple):
    """One part of each of R serialized records."""

    runs: np.ndarray  # void [R], or [1] if all are the same: the bytes, as wide as the longest of the R
    sizes: int | np.ndarray  # how many of these bytes count, int64 [R]


def encode_records(examples: Mapping[str, np.ndarray], schema: Schema) -> tuple[bytes, np.ndarray]:
    """Serialize R records, each preceded by its length.

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
        size, constant = parts[0].sizes, b""
        # Each level of the message is a tag, the length of the content, and the content.
        key = b"\n" + bytes([len(name)]) + name.encode()
        for head in (b"\n", bytes(LIST_TAGS[kind][:1]), key + b"\x12", b"\n"):
            if isinstance(size, int):
                constant = head + _varint(size) + constant
                size = parts[0].runs.itemsize + len(constant)
            else:
                parts[:0] = [_constant(head), _varints(size[:, None])]
                size = size + len(head) + parts[1].sizes
        columns += [_constant(constant), *parts] if constant else parts
        total = total + size
    sizes = np.array(np.broadcast_to(total, records), "<i8")
    columns.insert(0, _table(sizes[:, None]))
    # A row is as wide as the longest record could be. Each part is copied at full width; the next part overwrites the
    # surplus.
    rows = np.empty((records, sum(column.runs.itemsize for column in columns)), np.uint8)
    ends = np.arange(records) * rows.shape[1]
    for column in columns:
        _runs(rows, column.runs.itemsize)[ends] = column.runs
        ends += column.sizes
    content = rows.tobytes()
    texts = [content[end - size - 8 : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
    return b"".join(texts), np.append(0, np.cumsum(sizes + 8)).astype(np.uint64)


def _constant(data: bytes) -> _Column:
    return _Column(np.frombuffer(data, f"V{len(data)}"), len(data))


def _table(values: np.ndarray) -> _Column:
    runs: np.ndarray = np.ascontiguousarray(values).view(f"V{values.itemsize * values.shape[1]}")
    return _Column(runs[:, 0], runs.itemsize)


def _runs(data: np.ndarray | bytes, width: int) -> np.ndarray:
    """The `width` bytes that start at each byte."""
    size = len(data) if isinstance(data, bytes) else data.nbytes
    return np.ndarray(size - width + 1, f"V{width}", data, strides=(1,))


@lru_cache(1 << 10)
def _varint(value: int) -> bytes:
    data, used = _compute_varints(np.array([value], np.uint64), 10)
    return data[used.view(bool)].tobytes()


def _varints(values: np.ndarray) -> _Column:
    """Values [R, L] as varints of seven bits a byte."""
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least >= 0 and most < 0x80:
        return _table(values.astype(np.uint8))
    if least >= 0 and most < _TABLE_SIZE:
        data = _varint_table(2 if most < 1 << 14 else 4).take(values)
        # A byte counts if it is the first of a number, or follows one whose highest bit is set.
        used = ((data & data.dtype.type(0x80808080 % (1 << 8 * data.itemsize))) << 1 | 1).view(np.uint8)
        data = data.view(np.uint8)
    else:
        data, used = _compute_varints(values.astype(np.int64).view(np.uint64), 10)
    if used.all():
        return _table(data.reshape(len(values), -1))
    kept = np.flatnonzero(used.view(bool))  # selection by bool copies run by run, and these are short
    borders = np.searchsorted(kept, np.arange(len(values) + 1) * (used.size // len(values)))
    sizes = np.diff(borders)
    content = data.ravel().take(kept).tobytes() + bytes(int(sizes.max()))
    return _Column(_runs(content, int(sizes.max()))[borders[:-1]], sizes)


@lru_cache
def _varint_table(width: int) -> np.ndarray:
    """The varints of all small values, each as one integer."""
    values = np.arange(min(1 << 7 * width, _TABLE_SIZE), dtype=np.uint64)
    table: np.ndarray = np.ascontiguousarray(_compute_varints(values, width)[0]).view(f"<u{width}")[:, 0]
    return table


def _compute_varints(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes uint8 [..., width] of the varints of uint64 values, and a uint8 mask of the used bytes."""
    rest = values[..., None] >> (7 * np.arange(width, dtype=np.uint64))
    used = rest > 0
    used[..., 0] = True
    return ((rest & np.uint64(0x7F)) | (rest > 0x7F) * np.uint64(0x80)).astype(np.uint8), used.astype(np.uint8)
