"""`dataset.json` beside the shards of a record set, and the index of its records."""

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
INDEX_FILE = "offsets.u64"  # where each record begins in its shard, shard after shard: large sets open at once
FORMAT_VERSION = 1


class Shard(NamedTuple):
    """One complete file of records."""

    file: str
    records: int
    crc32: int
    bytes: int
    max_length: int | None = None  # of its records, in sets whose shards are bins of lengths
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
        content = json.loads(file.read_bytes())
        if content["format_version"] != FORMAT_VERSION:
            raise UserError(f"{file} has format {content['format_version']}, but this program reads {FORMAT_VERSION}.")
        schema = content["schema"].items()
        if not all(kind in DTYPES and 0 < int(length) < MAX_RECORD_BYTES for _, (kind, length) in schema):
            raise ValueError
        if not all(int(shard["records"]) >= 0 and int(shard["bytes"]) >= 0 for shard in content["shards"]):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file} is damaged: prepare the set again, or delete the file to have the shards scanned."
        ) from None
    return content


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
        UserError: a file is not the one that `dataset.json` lists.
    """
    listed = metadata["shards"]
    for file, shard in zip(files, listed, strict=False):
        size = file.stat().st_size
        if file.name != shard["file"] or size != shard["bytes"]:
            raise UserError(
                f"{file} is not the file that {DATASET_JSON} lists ({size} bytes, not {shard['bytes']}): it was cut "
                "short or replaced; copy or prepare it again."
            )
    if len(files) > len(listed):
        raise UserError(
            f"{files[len(listed)]} is not listed in {DATASET_JSON}: remove it if it is left over from another set."
        )
    index = directory / INDEX_FILE
    if not index.exists():
        return list(map(scan, files))
    if index.stat().st_size != 8 * metadata["records"]:
        raise UserError(f"{index} does not belong to this set: delete it to have the shards scanned.")
    offsets = np.memmap(index, "<u8", "r") if metadata["records"] else np.empty(0, np.uint64)
    counts = [shard["records"] for shard in listed]
    return [offsets[end - count : end] for count, end in zip(counts, np.cumsum(counts), strict=True)][: len(files)]
