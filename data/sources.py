"""Open record sets of any format, and combine several into one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from data.counter_random import shuffled
from data.ofrecord import open_records
from data.records import json_lines, token_windows
from data.records.dataset_json import read_dataset_json
from data.records.json_lines import open_json_lines
from data.records.record_set import RecordSet
from data.records.token_windows import open_token_windows
from utils.errors import UserError

_OPENERS = {"ofrecord": open_records, "jsonl": open_json_lines, "tokens": open_token_windows}
_SUFFIXES = {json_lines.SUFFIX: "jsonl", ".json": "jsonl", token_windows.SUFFIX: "tokens"}


def open_source(path: str | Path, *, parts: int | None = None) -> RecordSet:
    """Open a directory of OFRecord shards, JSON lines or token streams, or one file of these.

    Args:
        path: the directory or the file.
        parts: use only this many files, from the first.

    Raises:
        UserError: there are no records, or the set is damaged.
    """
    return _OPENERS[_format(Path(path))](path, parts=parts)


def _format(path: Path) -> str:
    if path.is_file():
        return _SUFFIXES.get(path.suffix, "ofrecord")
    stored: str = read_dataset_json(path).get("format", "ofrecord") if path.is_dir() else "ofrecord"
    if stored not in _OPENERS:
        raise UserError(
            f"{path} has the format {stored!r}, but this program reads {', '.join(_OPENERS)}: prepare the set again."
        )
    only_lines = stored == "ofrecord" and json_lines.files_in(path) and not next(path.glob("part-*[0-9]"), None)
    return "jsonl" if only_lines else stored


def open_sources(
    paths: Sequence[str],
    *,
    parts: int | None = None,
    seq_length: int | None = None,
    max_predictions_per_seq: int | None = None,
) -> RecordSet:
    """Open one or several sources as one set.

    Args:
        paths: directories or files, as for `open_source`.
        parts: use only this many files of a single directory, from the first.
        seq_length, max_predictions_per_seq: the records' lengths, if the format allows any (default: the maximum over
            all records).

    Raises:
        UserError: a source cannot be opened, or two cannot be combined.
    """
    if parts is not None and len(paths) > 1:
        raise UserError("--train_data_part counts the shards of one directory: omit it, or pass only one directory.")
    sources = equally_long(
        *(open_source(path, parts=parts) for path in paths),
        seq_length=seq_length,
        max_predictions_per_seq=max_predictions_per_seq,
    )
    source = sources[0] if len(sources) == 1 else Mixture(sources)
    return source if source.lengths is None else Shuffled(source)


def equally_long(
    *sources: RecordSet, seq_length: int | None = None, max_predictions_per_seq: int | None = None
) -> list[RecordSet]:
    """The sets with records of these lengths (default: the longest), if their formats allow any length."""
    tokens, predictions = (
        max(each.schema.get(name, ("", 0))[1] for each in sources) for name in ("input_ids", "masked_lm_ids")
    )
    return [each.resized(seq_length or tokens, max_predictions_per_seq or predictions) for each in sources]


class Mixture(RecordSet):
    """Several sets, concatenated. The training order mixes them."""

    def __init__(self, sources: Sequence[RecordSet]) -> None:
        first = sources[0]
        for other in sources[1:]:
            check_agreement(first, other)
        metadata: dict[str, object] = {}
        for source in reversed(sources):  # the first source's metadata takes precedence
            metadata |= source.metadata
        metadata["shards"] = [shard for source in sources for shard in source.metadata.get("shards", ())]
        directories = [each.directory for each in sources if (each.directory / "vocab.txt").exists()]
        super().__init__(
            ", ".join(source.name for source in sources),
            (directories or [first.directory])[0],
            [shard for source in sources for shard in source.shards],
            [count for source in sources for count in np.diff(np.append(source.shard_starts, len(source))).tolist()],
            first.schema,
            metadata,
        )
        self._sources = sources
        self._begins = np.cumsum([0, *map(len, sources)])

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> Mixture:
        return Mixture([each.resized(seq_length, max_predictions_per_seq) for each in self._sources])

    def location(self, index: int) -> str:
        which = int(np.searchsorted(self._begins, index, side="right")) - 1
        return self._sources[which].location(index - int(self._begins[which]))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, np.int64)
        owners = np.searchsorted(self._begins, indices, side="right") - 1
        batch: dict[str, np.ndarray] = {}
        for which in np.unique(owners).tolist():
            (rows,) = np.nonzero(owners == which)
            for name, values in self._sources[which].read(indices[rows] - self._begins[which]).items():
                batch.setdefault(name, np.empty((len(indices), *values.shape[1:]), values.dtype))[rows] = values
        return batch


class Shuffled(RecordSet):
    """A set with length bins, renumbered randomly so that any range of records contains all lengths."""

    def __init__(self, source: RecordSet) -> None:
        counts = np.diff(np.append(source.shard_starts, len(source))).tolist()
        super().__init__(source.name, source.directory, source.shards, counts, source.schema, source.metadata)
        self._source = source

    @cached_property
    def lengths(self) -> np.ndarray | None:
        known = self._source.lengths
        return None if known is None else known[shuffled(np.arange(len(self)), len(self), seed=0)]

    def resized(self, seq_length: int, max_predictions_per_seq: int | None) -> Shuffled:
        return Shuffled(self._source.resized(seq_length, max_predictions_per_seq))

    def location(self, index: int) -> str:
        return self._source.location(int(shuffled(np.array([index]), len(self), seed=0)[0]))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self._source.read(shuffled(np.asarray(indices, np.int64), len(self), seed=0))


def objective(source: RecordSet) -> str:
    """The second task of the records; published sets do not state it but have next-sentence labels."""
    return source.metadata.get("objective", "nsp" if "next_sentence_labels" in source.schema else "none")


def check_agreement(first: RecordSet, other: RecordSet) -> None:
    """Raise UserError if two sets cannot be used in one run."""

    def differ(what: str, one: object, another: object) -> None:
        if one != another:
            raise UserError(f"{first.name} and {other.name} cannot be combined: {what} {one} and {another}.")

    for name in {**first.schema, **other.schema}:
        lengths = [source.schema[name][1] if name in source.schema else "none" for source in (first, other)]
        differ(f"their records have {name} of lengths", *lengths)
    differ("they were made for the objectives", objective(first), objective(other))
    for name, what in (("vocab_sha256", "vocabularies"), ("do_lower_case", "settings of --do_lower_case")):
        if name in first.metadata and name in other.metadata:
            differ(f"they have the {what}", first.metadata[name], other.metadata[name])
