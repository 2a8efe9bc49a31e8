"""JSON lines: one pretraining record per line, in the format of Hugging Face's collators.

    {"input_ids": […], "attention_mask": […], "token_type_ids": […], "labels": […], "next_sentence_label": 1}

The lists of a line have the same length, with or without padding. `labels` is the original id of each token to predict
and −100 elsewhere; records without `labels` are masked during training. `next_sentence_label` is 1 if the second
segment is random; records without it have no second task.

Shapes: `R` records, `S` sequence, `P` predictions.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.records.dataset_json import read_index, stored_schema
from data.records.features import Schema, padding, pretraining_schema
from data.records.record_set import MAX_RECORD_BYTES, CorruptRecord, IndexedRecords
from data.records.shards import find_shards
from utils.errors import UserError

SUFFIX = ".jsonl"
IGNORED = -100
_LISTS = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
_LABELS, _NEXT = "labels", "next_sentence_label"
_QUOTED = [f'"{name}"'.encode() for name in (*_LISTS, _LABELS)]


class JsonLines(IndexedRecords):
    """A set of pretraining records in JSON lines, opened by `open_json_lines`."""

    longest: tuple[int, int]  # the maximum numbers of tokens and predictions over all lines

    def location(self, index: int) -> str:
        shard, number = self.locate(np.array(index))
        data, line = self.map(int(shard)), 1
        end = min(int(self._offsets[int(shard)][int(number)]), len(data))  # the index may be damaged
        for start in range(0, end, 1 << 20):
            line += data[start : min(start + (1 << 20), end)].count(b"\n")  # counts blank lines too
        return f"{self.shards[int(shard)]} line {line}"

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> JsonLines:
        for name, what, has, wanted in (
            ("seq_length", "tokens", self.longest[0], seq_length),
            ("max_predictions_per_seq", "labels", self.longest[1], max_predictions_per_seq),
        ):
            if wanted is not None and wanted < has:
                raise UserError(
                    f"--{name} {wanted} is too small: {self.name} has a record with {has} {what}. Raise it."
                )
        predictions = max_predictions_per_seq or self.schema.get("masked_lm_ids", ("", 0))[1]
        schema = _schema(seq_length, predictions, self.schema)
        copy = JsonLines(self.name, self.directory, self.shards, self._offsets, schema, self.metadata)
        copy.longest = self.longest
        return copy

    def decode(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        rows = [_parse(row, record) for row, record in enumerate(records)]
        batch = {name: padding(name, len(rows), length) for name, (_, length) in self.schema.items()}
        for row, fields in enumerate(rows):
            for name, ours in _LISTS.items():
                if len(fields[name]) > batch[ours].shape[1]:
                    raise CorruptRecord(row, f"it has more than {batch[ours].shape[1]} tokens")
                batch[ours][row, : len(fields[name])] = fields[name]
            for name, present in ((_LABELS, "masked_lm_ids" in batch), (_NEXT, "next_sentence_labels" in batch)):
                if (name in fields) != present:
                    raise CorruptRecord(row, f"it has {'no' if present else 'a'} {name}, unlike the first record")
            if _NEXT in fields:
                batch["next_sentence_labels"][row] = fields[_NEXT]
            if _LABELS in fields:
                (positions,) = np.nonzero(fields[_LABELS] != IGNORED)
                if len(positions) > batch["masked_lm_ids"].shape[1]:
                    raise CorruptRecord(row, f"it has more than {batch['masked_lm_ids'].shape[1]} labels")
                batch["masked_lm_positions"][row, : len(positions)] = positions
                batch["masked_lm_ids"][row, : len(positions)] = fields[_LABELS][positions]
                batch["masked_lm_weights"][row, : len(positions)] = 1
        return batch


def files_in(directory: Path) -> list[Path]:
    """The files of JSON lines in a directory: `*.jsonl`, or if there are none, `*.json`."""
    own = ("dataset.json", "report.json")  # files of other formats
    others = (path for path in sorted(directory.glob("*.json")) if path.name not in own)
    return sorted(directory.glob("*" + SUFFIX)) or list(others)


def open_json_lines(path: str | Path, *, parts: int | None = None) -> JsonLines:
    """Open a file, or a directory of files (`files_in`).

    A set written by `prepare_data.py` opens immediately. Other files are scanned: line offsets are kept in memory
    (8 bytes per line), records are padded to the longest line, and a line with a missing list or with lists of
    different lengths is an error. Everything else is checked when a line is used.

    Raises:
        UserError: there are no records, or a line is not a record; the message gives the line.
    """
    path = Path(path)
    if path.is_file() or next(path.glob("part-*" + SUFFIX), None):
        directory, files, metadata = find_shards(path, SUFFIX, parts=parts)
    else:
        directory, files, metadata = path, files_in(path)[:parts], {}
        if len(files) < (parts or 1):
            raise UserError(f"{path} contains {len(files)} *{SUFFIX} files, but {parts or 1} were requested.")
    if metadata and path.is_dir():
        offsets = read_index(directory, files, metadata, lambda file: _scan(file)[0])
        written = JsonLines(str(path), directory, files, offsets, stored_schema(metadata), metadata)
        written.longest = written.schema["input_ids"][1], written.schema.get("masked_lm_ids", ("", 0))[1]
        return written
    scans = [_scan(file) for file in files]
    tokens, predictions = (max(scan[1][which] for scan in scans) for which in range(2))
    if not sum(len(offsets) for offsets, _ in scans):
        raise UserError(f"{path} contains no records.")
    first = JsonLines(str(path), directory, files, [offsets for offsets, _ in scans], {}, metadata)
    shard, number = (int(each) for each in first.locate(np.array(0)))
    fields = json.loads(first.map(shard)[int(first._offsets[shard][number]) :].split(b"\n", 1)[0])
    present = {"masked_lm_ids": _LABELS in fields, "next_sentence_labels": _NEXT in fields}
    first.schema = _schema(tokens, max(predictions, 1), {name for name, there in present.items() if there})
    first.longest = tokens, predictions
    return first


def encode_json_lines(examples: Mapping[str, np.ndarray], schema: Schema) -> tuple[bytes, np.ndarray]:
    """R records as lines without padding: their bytes, and the R + 1 offsets of the lines."""
    lengths = examples["input_mask"].sum(axis=1).tolist()
    lists = {name: examples[ours].tolist() for name, ours in _LISTS.items()}
    if "masked_lm_ids" in schema:
        labels = np.full(examples["input_ids"].shape, IGNORED)
        rows, numbers = np.nonzero(examples["masked_lm_weights"])
        labels[rows, examples["masked_lm_positions"][rows, numbers]] = examples["masked_lm_ids"][rows, numbers]
        lists[_LABELS] = labels.tolist()
    lines = []
    for row, length in enumerate(lengths):
        fields: dict[str, Any] = {name: values[row][:length] for name, values in lists.items()}
        if "next_sentence_labels" in schema:
            fields[_NEXT] = int(examples["next_sentence_labels"][row, 0])
        lines.append(json.dumps(fields).encode() + b"\n")
    return b"".join(lines), np.append(0, np.cumsum([len(line) for line in lines])).astype(np.uint64)


def _schema(tokens: int, predictions: int, present: Mapping[str, Any] | set[str]) -> Schema:
    """The schema of records, with masks and second task if they are `present`."""
    return pretraining_schema(
        tokens, predictions, masked="masked_lm_ids" in present, second_task="next_sentence_labels" in present
    )


def _parse(row: int, line: bytes) -> dict[str, Any]:
    """Parses a line into arrays of equal length and its label; raises CorruptRecord with this row of the batch."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise CorruptRecord(row, "it is not a JSON object")
    for name in (*_LISTS, _LABELS):
        if name not in fields and name != _LABELS:
            raise CorruptRecord(row, f"it has no {name}")
        if name not in fields:
            continue
        try:
            values = np.array(fields[name])
            fields[name] = values.astype(np.int32)
            good = values.ndim == 1 and values.dtype.kind == "i" and len(values) and (fields[name] == values).all()
        except (ValueError, TypeError, OverflowError):
            good = False
        if not good:
            raise CorruptRecord(row, f"its {name} is not a list of integers")
        if len(values) != len(fields["input_ids"]):
            raise CorruptRecord(row, f"it has {len(fields['input_ids'])} input_ids but {len(values)} {name}")
    if _NEXT in fields and fields[_NEXT] not in (0, 1, [0], [1]):
        raise CorruptRecord(row, f"its {_NEXT} is {fields[_NEXT]!r}, not 0 or 1")
    return fields


def _scan(file: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Where each line of a file begins, uint64 [lines], and the maximum of tokens and predictions of a line."""
    offsets, position, longest = array("Q"), 0, (0, 0)
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_RECORD_BYTES), b""), 1):
                if not line.isspace():
                    tokens, predictions = _count_quickly(line) or _count(file, number, line)
                    longest = max(longest[0], tokens), max(longest[1], predictions)
                    offsets.append(position)
                position += len(line)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    return np.frombuffer(offsets, np.uint64) if offsets else np.empty(0, np.uint64), longest


def _count_quickly(line: bytes) -> tuple[int, int] | None:
    """The number of tokens and of predictions of a line; None if it does not look like a record.

    Counting commas is many times faster than parsing.
    """
    if not line.rstrip().endswith(b"}"):
        return None
    counts = []
    ignored = 0
    for name in _QUOTED:
        at = line.find(name)
        begin = line.find(b"[", at)
        end = line.find(b"]", begin)
        if 0 <= at < begin < end and not line[at + len(name) : begin].strip(b" :"):
            counts.append(1 + line.count(b",", begin, end))
            ignored = line.count(b"%d" % IGNORED, begin, end)  # labels come last
        elif at >= 0 or name != _QUOTED[-1]:
            return None
    if min(counts) != max(counts):
        return None
    return counts[0], counts[0] - ignored if len(counts) == len(_QUOTED) else 0


def _count(file: Path, number: int, line: bytes) -> tuple[int, int]:
    """The number of tokens and of predictions of any line; raises UserError if it is not a record."""
    try:
        fields = _parse(0, line)
    except CorruptRecord as error:
        raise UserError(f"{file} line {number} is not a pretraining record: {error}. Correct or remove it.") from None
    return len(fields["input_ids"]), int((fields[_LABELS] != IGNORED).sum()) if _LABELS in fields else 0
