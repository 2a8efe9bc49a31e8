"""Pairs, triples, scored pairs and sentences for training and evaluating embeddings.

Shapes: `n` rows, `T` texts of a row, `S` sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conversion.tokenizer_files import Vocabulary
from data.tables import Table, read_table, read_text
from data.tokenization import bulk_tokenizer
from utils.errors import UserError

SCORE_NAMES = ("score", "similarity", "similarity_score", "label", "gold_score")
_IGNORED = ("id", "_id", "index", "idx", "split", "genre", "filename", "year", "old_index", "source1", "source2")
_PLAIN_TEXT = (".txt", ".text")


@dataclass(frozen=True)
class TextGroups:
    """The rows of one file.

    Attributes:
        table: where the rows come from, for messages.
        names: the columns of the texts.
        texts: for each text of a row, [n] texts.
        scores: float32 [n], divided by the highest score; None if the file has none.
    """

    table: Table
    names: tuple[str, ...]
    texts: tuple[list[str], ...]
    scores: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def columns(self) -> str:
        """A description of the columns in use, for messages."""
        return ", ".join(self.names) + ("" if self.scores is None else " and a score")

    def check_scores(self, lowest: float) -> None:
        """Raises UserError with file and row for a score below `lowest` or above 1."""
        scores = np.empty(0) if self.scores is None else self.scores
        outside = np.flatnonzero((scores < lowest) | (scores > 1))
        if len(outside):
            row = int(outside[0])
            raise UserError(
                f"{self.table.location(row)}: the score divided by --max_score is {scores[row]:g}, not a number from "
                f"{lowest:g} to 1: set --max_score to the highest score."
            )

    @classmethod
    def of_texts(cls, path: Path, texts: list[str]) -> TextGroups:
        """Wraps single texts that are not rows of a file."""
        return cls(Table(path, {}, tuple(range(1, len(texts) + 1))), ("text",), (texts,), None)


def read_groups(
    path: str | Path,
    *,
    text_columns: Sequence[str] = (),
    score_column: str | None = None,
    delimiter: str | None = None,
    max_score: float = 1.0,
    most_rows: int | None = None,
) -> TextGroups:
    """Reads a file of pairs, triples, scored pairs or sentences.

    Args:
        path: CSV, TSV, JSON lines, or plain text (.txt) with one sentence per line; also with .gz.
        text_columns: the columns of the texts (default: guessed).
        score_column: the column with the score of a pair (default: guessed; plain text has none).
        delimiter: see `read_table`.
        max_score: the divisor of the scores.
        most_rows: the maximum number of rows to read.

    Raises:
        UserError: the file cannot be read, a column is missing, a text is empty, or a score is not a number. The
            message names file and row.
    """
    table = _read(Path(path), delimiter)
    if most_rows is not None:
        table = table.take(range(min(most_rows, len(table))))
    if score_column:
        table.column(score_column, "--score_column")
    else:
        score_column = next((name for name in SCORE_NAMES if name in table.columns and name not in text_columns), None)
    names = tuple(text_columns) or _guess(table, score_column)
    texts = tuple(_texts(table, name) for name in names)
    if not score_column or len(names) != 2:
        return TextGroups(table, names, texts, None)
    return TextGroups(table, names, texts, (_numbers(table, score_column) / max_score).astype(np.float32))


def read_identified(path: str | Path, delimiter: str | None, flag: str) -> dict[str, str]:
    """{id: text} of a file with the columns _id (or id), text and optionally title, which is put before the text."""
    table = _read(Path(path), delimiter)
    ids = table.columns.get("_id") or table.columns.get("id") or table.column("_id", flag)
    table.column("text", flag)
    texts = _texts(table, "text")
    titles = table.columns.get("title", [""] * len(table))
    found: dict[str, str] = {}
    for row, (name, title, text) in enumerate(zip(map(str, ids), titles, texts, strict=True)):
        if name in found:
            raise UserError(f"{table.location(row)} has the id {name!r} of an earlier row: give each text a unique id.")
        found[name] = f"{title} {text}".strip() if title else text
    return found


def read_relevance(path: str | Path, delimiter: str | None) -> dict[str, dict[str, float]]:
    """{query id: {corpus id: relevance above 0}} of a file with columns query-id, corpus-id and optionally score."""
    table = _read(Path(path), delimiter)
    queries = table.column("query-id", "--qrels_file")
    documents = table.column("corpus-id", "--qrels_file")
    grades = _numbers(table, "score") if "score" in table.columns else np.ones(len(table))
    found: dict[str, dict[str, float]] = {}
    for query, document, grade in zip(queries, documents, grades.tolist(), strict=True):
        if grade > 0:
            found.setdefault(str(query), {})[str(document)] = grade
    return found


def _read(path: Path, delimiter: str | None) -> Table:
    if Path(path.name.removesuffix(".gz")).suffix.lower() not in _PLAIN_TEXT:
        return read_table(path, delimiter=delimiter)
    numbered = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} contains no rows.")
    return Table(path, {"sentence": [line for _, line in numbered]}, tuple(number for number, _ in numbered))


def _guess(table: Table, score_column: str | None) -> tuple[str, ...]:
    """The text columns: all except the score and columns with common names for other data."""
    names = [name for name in table.columns if name != score_column and name.lower() not in _IGNORED]
    names = [name for name in names if all(isinstance(value, str) for value in table.columns[name])]
    if not names:
        raise UserError(f"{table.path} has no text column: set the columns with --text_columns.")
    if score_column is not None and len(names) != 2:
        raise UserError(
            f"{table.path} has scores in {score_column!r} and the text columns {', '.join(map(repr, names))}: set the "
            "two to compare with --text_columns."
        )
    return tuple(names)


def _texts(table: Table, name: str) -> list[str]:
    values: list[Any] = table.column(name, "--text_columns")
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{table.location(row)}: {name!r} must be text, not {value!r:.60}.")
        if not value.strip():
            raise UserError(f"{table.location(row)}: {name!r} is empty: remove the row.")
    return values


def _numbers(table: Table, name: str) -> np.ndarray:
    numbers = np.empty(len(table), np.float64)
    for row, value in enumerate(table.column(name, "--score_column")):
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError):
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise UserError(f"{table.location(row)}: {name!r} is {value!r:.60}, not a number: correct or remove it.")
    return numbers


class GroupRecords:
    """Rows of texts as records: every text is `[CLS] text [SEP]`, truncated to fit."""

    def __init__(self, groups: TextGroups, vocabulary: Vocabulary, *, max_seq_length: int) -> None:
        self._groups, self._seq_length = groups, max_seq_length
        self._frame = vocabulary.ids["[CLS]"], vocabulary.ids["[SEP]"]
        tokenizer = bulk_tokenizer(vocabulary)
        self._ids, counts = zip(*(tokenizer.encode(texts) for texts in groups.texts), strict=True)  # T of [tokens]
        self._first = [np.cumsum(each) - each for each in counts]
        self._kept = [np.minimum(each, max_seq_length - 2) for each in counts]  # T of [n]
        self.lengths = (np.max(self._kept, axis=0) + 2).astype(np.uint16)  # [n], of the longest text of each row

    def __len__(self) -> int:
        return len(self._groups)

    def location(self, index: int) -> str:
        """The file and row of a record, for messages."""
        return self._groups.table.location(index)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids`, `input_mask`, `segment_ids` int32 [n, T, S] and, if there are any, `scores` [n, 1]."""
        indices = np.asarray(indices, np.int64)
        rows, texts = len(indices), len(self._ids)
        input_ids = np.zeros((rows, texts, self._seq_length), np.int32)
        input_ids[:, :, 0] = self._frame[0]
        position = np.arange(self._seq_length)
        lengths = np.stack([kept[indices] + 2 for kept in self._kept], axis=1)  # [n, T]
        for text, (ids, first, kept) in enumerate(zip(self._ids, self._first, self._kept, strict=True)):
            count = kept[indices]
            inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # position in its text
            row = np.repeat(np.arange(rows), count)
            input_ids[row, text, 1 + inside] = ids[first[indices][row] + inside]
            input_ids[np.arange(rows), text, 1 + count] = self._frame[1]
        batch = {
            "input_ids": input_ids,
            "input_mask": (position < lengths[:, :, None]).astype(np.int32),
            "segment_ids": np.zeros_like(input_ids),
        }
        if self._groups.scores is not None:
            batch["scores"] = self._groups.scores[indices, None]
        return batch
