"""Reads and writes a record set's `dataset.json` and the index of its records."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.records.features import DTYPES, Schema
from data.records.record_set import MAX_RECORD_BYTES
from utils.atomic_files import write_atomically
from utils.errors import UserError

DATASET_JSON = "dataset.json"
INDEX_FILE = (
    "offsets.u64"  # the offset of each record in its shard, shard after shard, so that large sets open immediately
)
FORMAT_VERSION = 1
_INTEGERS = ("vocab_size", "seq_length", "max_predictions_per_seq", "cls_id", "sep_id")
_STRINGS = ("format", "objective", "masking", "vocab_sha256")


class Shard(NamedTuple):
    """One complete file of records."""

    file: str
    records: int
    crc32: int
    bytes: int
    max_length: int | None = None  # the maximum length of its records, if shards are length bins
    offsets: np.ndarray | Path | None = None  # uint64 [records], or a file of them; None in sets made by other programs


def write_dataset_json(directory: str | Path, *, schema: Schema, shards: Sequence[Shard], **metadata: Any) -> None:
    """Write the index and, last, `dataset.json`, whose presence means that the set is complete."""
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


def stored_schema(metadata: Mapping[str, Any]) -> Schema:
    """The schema in the content of a `dataset.json`."""
    return {name: (kind, length) for name, (kind, length) in metadata["schema"].items()}


def read_dataset_json(directory: Path) -> dict[str, Any]:
    """The content of a directory's `dataset.json`, {} if there is none; raises UserError if it is damaged."""
    file = directory / DATASET_JSON
    if not file.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{file} has format {str(version)[:40]}, but only {FORMAT_VERSION} is supported: prepare the set again."
            )
        if not _is_sound(content):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{file} is damaged: prepare the set again, or delete the file so that the shards are scanned."
        ) from None
    return content


def _is_sound(content: Mapping[str, Any]) -> bool:
    """Whether all values that this program uses have valid types and ranges.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the structure is invalid.
    """
    shards = content["shards"]
    counts = [shard[name] for shard in shards for name in ("records", "bytes")]
    lengths = [length for _, length in content["schema"].values()] + [shard.get("max_length", 1) for shard in shards]
    return (
        isinstance(content, dict)
        and all(kind in DTYPES for kind, _ in content["schema"].values())
        and all(type(length) is int and 0 < length < MAX_RECORD_BYTES for length in lengths)
        and all(type(count) is int and 0 <= count < 1 << 62 for count in (*counts, content["records"]))
        and all(isinstance(shard["file"], str) and shard["file"].encode() for shard in shards)
        and all(name.encode() for name in content["schema"])  # not every string of JSON can be encoded
        and sum(shard["records"] for shard in shards) == content["records"]
        and all(type(content.get(name, 0)) is int and 0 <= content.get(name, 0) < 1 << 31 for name in _INTEGERS)
        and all(isinstance(content.get(name, ""), str) for name in _STRINGS)
        and isinstance(content.get("do_lower_case", True), bool)
        and isinstance(content.get("made_by", {}), dict)
        and content.get("seq_length", 1) > 0
    )


def read_index(
    directory: Path,
    files: Sequence[Path],
    metadata: Mapping[str, Any],
    scan: Callable[[Path], np.ndarray],
) -> list[np.ndarray]:
    """Where the records of each file begin, uint64 [records] each.

    Args:
        metadata: the content of `dataset.json`.
        scan: finds the offsets in a file, for sets without an index.

    Raises:
        UserError: a file is not the one listed in `dataset.json`.
    """
    listed = metadata["shards"]
    for file, shard in zip(files, listed, strict=False):
        size = file.stat().st_size
        if file.name != shard["file"] or size != shard["bytes"]:
            raise UserError(
                f"{file} is not the file that {DATASET_JSON} lists ({size} bytes, not {shard['bytes']}): it was "
                "truncated or replaced. Copy or prepare it again."
            )
    if len(files) > len(listed):
        raise UserError(
            f"{files[len(listed)]} is not listed in {DATASET_JSON}: remove it if it is left over from another set."
        )
    index = directory / INDEX_FILE
    if not index.exists():
        return list(map(scan, files))
    if index.stat().st_size != 8 * metadata["records"]:
        raise UserError(f"{index} does not belong to this set: delete it so that the shards are scanned.")
    offsets = np.memmap(index, "<u8", "r") if metadata["records"] else np.empty(0, np.uint64)
    counts = [shard["records"] for shard in listed]
    return [offsets[end - count : end] for count, end in zip(counts, np.cumsum(counts), strict=True)][: len(files)]
