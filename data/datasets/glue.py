"""GLUE's tasks: their files, labels and metrics, and the records made from them.

Shapes: `n` sentences or pairs, `S` sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conversion.tokenizer_files import Vocabulary
from data.text.tokenization import BulkTokenizer
from utils.errors import UserError


@dataclass(frozen=True)
class GlueTask:
    """One task, as the GLUE download lays it out."""

    directory: str
    text_columns: tuple[str, ...]  # one sentence, or the two of a pair
    label_column: str
    labels: tuple[str, ...]  # in the order of their numbers; none: the label is a score
    metrics: tuple[str, ...]
    dev_sets: tuple[str, ...] = ("dev",)
    test_sets: tuple[str, ...] = ("test",)
    leaderboard_files: tuple[str, ...] = ()  # one for each test set
    headless_columns: tuple[str, ...] = ()  # of training and development files that have no header line
    meanings: tuple[str, ...] = ()  # of labels that are numbers in the files

    @property
    def label_names(self) -> tuple[str, ...]:
        """What a model answers: the meanings of the labels in the order of their numbers, or the score's name."""
        return self.meanings or self.labels or ("score",)

    @property
    def submissions(self) -> dict[str, str]:
        """{test set: the file that the leaderboard takes}."""
        return dict(zip(self.test_sets, self.leaderboard_files or (f"{self.directory}.tsv",), strict=True))


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
GLUE_TASKS = {
    "cola": GlueTask(
        "CoLA",
        ("sentence",),
        "label",
        _BINARY,
        ("matthews_correlation",),
        headless_columns=("source", "label", "mark", "sentence"),
        meanings=("unacceptable", "acceptable"),
    ),
    "mrpc": GlueTask(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        _BINARY,
        ("accuracy", "f1"),
        meanings=("not_equivalent", "equivalent"),
    ),
    "qqp": GlueTask(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        _BINARY,
        ("accuracy", "f1"),
        meanings=("not_duplicate", "duplicate"),
    ),
    "sst2": GlueTask("SST-2", ("sentence",), "label", _BINARY, ("accuracy",), meanings=("negative", "positive")),
    "stsb": GlueTask("STS-B", ("sentence1", "sentence2"), "score", (), ("pearson", "spearman")),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        ("contradiction", "entailment", "neutral"),
        ("accuracy",),
        dev_sets=("dev_matched", "dev_mismatched"),
        test_sets=("test_matched", "test_mismatched"),
        leaderboard_files=("MNLI-m.tsv", "MNLI-mm.tsv"),
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", _ENTAILMENT, ("accuracy",)),
    "rte": GlueTask("RTE", ("sentence1", "sentence2"), "label", _ENTAILMENT, ("accuracy",)),
}
HIGHEST_SCORE = 5.0  # of STS-B


@dataclass(frozen=True)
class GlueExamples:
    """The rows of one file."""

    path: Path
    first_line: int  # of the file that holds a row, from 1
    texts: tuple[list[str], ...]  # for each text column [n]
    labels: np.ndarray | None  # int32 or float32 [n]; None for a test set
    indices: list[str]  # [n], the first column of a test set, which the leaderboard asks for

    def __len__(self) -> int:
        return len(self.texts[0])

    def first(self, count: int | None) -> GlueExamples:
        """The first `count` rows, or all of them."""
        labels = self.labels if self.labels is None else self.labels[:count]
        texts = tuple(column[:count] for column in self.texts)
        return GlueExamples(self.path, self.first_line, texts, labels, self.indices[:count])


def task_directory(data_dir: str | Path, task: GlueTask) -> Path:
    """Where a task's files are: `data_dir` itself, or the folder of the task's name in it."""
    directory = Path(data_dir)
    inner = directory / task.directory
    if inner.is_dir():
        return inner
    if not directory.is_dir():
        raise UserError(f"--data_dir {directory} is not a directory: name GLUE's, or the task's own.")
    return directory


def read_examples(directory: Path, task: GlueTask, name: str) -> GlueExamples:
    """Reads `directory/name.tsv`.

    Args:
        name: "train", or one of the task's development or test sets.

    Raises:
        UserError: the file is missing or empty, or a row is ragged or has a label that the task does not know (the
            message names file and line).
    """
    path = directory / f"{name}.tsv"
    testing = name in task.test_sets
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): --data_dir must hold {task.directory}'s files."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}).") from None
    if lines and not lines[-1]:
        lines.pop()
    headless = bool(task.headless_columns) and not testing
    columns = task.headless_columns if headless else tuple(lines[0].rstrip("\r").split("\t") if lines else ())
    wanted = (*task.text_columns, *(() if testing else (task.label_column,)))
    for column in wanted:
        if column not in columns:
            raise UserError(f"{path} line 1 has no column {column!r}: it is not {task.directory}'s {name}.tsv.")
    first_line = 1 if headless else 2
    rows = [line.rstrip("\r").split("\t") for line in lines[first_line - 1 :]]
    for number, row in enumerate(rows, first_line):
        if len(row) != len(columns):
            raise UserError(f"{path} line {number} has {len(row)} fields, not {len(columns)}: mend or remove it.")
    if not rows:
        raise UserError(f"{path} holds no rows.")
    texts = tuple([row[columns.index(column)] for row in rows] for column in task.text_columns)
    words = [] if testing else [row[columns.index(task.label_column)] for row in rows]
    labels = None if testing else _labels(words, task, path, first_line)
    return GlueExamples(path, first_line, texts, labels, [row[0] for row in rows] if testing else [])


def _labels(words: list[str], task: GlueTask, path: Path, first_line: int) -> np.ndarray:
    numbers = {label: number for number, label in enumerate(task.labels)}
    labels = np.empty(len(words), np.int32 if task.labels else np.float32)
    for row, word in enumerate(words):
        try:
            labels[row] = numbers[word] if task.labels else _score(word)
        except (KeyError, ValueError):
            known = ", ".join(task.labels) if task.labels else f"a score from 0 to {HIGHEST_SCORE:g}"
            raise UserError(f"{path} line {first_line + row} has the label {word!r}, not {known}.") from None
    return labels


def _score(word: str) -> float:
    score = float(word)
    if not 0 <= score <= HIGHEST_SCORE:
        raise ValueError
    return score


class GlueRecords:
    """A set's examples as records: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut at the longer one's end to fit."""

    def __init__(self, examples: GlueExamples, vocabulary: Vocabulary, *, max_seq_length: int) -> None:
        self.examples = examples
        vocab = vocabulary.ids
        tokenizer = BulkTokenizer(vocab, *vocabulary.rules)
        encoded = [tokenizer.encode(texts) for texts in examples.texts]
        room = max_seq_length - 1 - len(encoded)
        lengths = fitting_lengths(np.stack([counts for _, counts in encoded]), room)  # [sentences, n]
        self._input_ids = np.zeros((len(examples), max_seq_length), np.int32)
        self._input_ids[:, 0] = vocab["[CLS]"]
        self._segment_start = np.full(len(examples), max_seq_length)  # where segment 1 begins
        start = np.ones(len(examples), np.int64)
        for sentence, (ids, counts) in enumerate(encoded):
            if sentence:
                self._segment_start = start
            first = np.cumsum(counts) - counts
            kept = lengths[sentence]
            inside = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)  # place within its sentence
            rows = np.repeat(np.arange(len(examples)), kept)
            self._input_ids[rows, start[rows] + inside] = ids[first[rows] + inside]
            start = start + kept
            self._input_ids[np.arange(len(examples)), start] = vocab["[SEP]"]
            start = start + 1
        self._length = start

    def __len__(self) -> int:
        return len(self.examples)

    def location(self, index: int) -> str:
        """Where a record stands, for messages."""
        return f"{self.examples.path} line {self.examples.first_line + index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids`, `input_mask`, `segment_ids` int32 [n, S] and, but for a test set, `label_ids` [n, 1]."""
        indices = np.asarray(indices, np.int64)
        place = np.arange(self._input_ids.shape[1])
        inside = place < self._length[indices, None]
        batch = {
            "input_ids": self._input_ids[indices],
            "input_mask": inside.astype(np.int32),
            "segment_ids": (inside & (place >= self._segment_start[indices, None])).astype(np.int32),
        }
        if self.examples.labels is not None:
            batch["label_ids"] = self.examples.labels[indices, None]
        return batch


def fitting_lengths(counts: np.ndarray, room: int) -> np.ndarray:
    """[sentences, n] lengths that fit into `room`, shortened at the longer one's end, at a tie the second's."""
    if len(counts) == 1:
        return np.minimum(counts, room)
    first, second = counts
    # What is left when both are long: equal halves, the odd token to the first, or more where the other is short.
    kept_first = np.where(first + second <= room, first, np.minimum(first, np.maximum(room - second, (room + 1) // 2)))
    return np.stack([kept_first, np.minimum(second, room - kept_first)])


def submission(predictions: np.ndarray, task: GlueTask, indices: Sequence[str]) -> str:
    """A leaderboard file: the header `index<tab>prediction`, then labels as words, or scores with three decimals."""
    words = [task.labels[int(p)] if task.labels else f"{np.clip(p, 0, HIGHEST_SCORE):.3f}" for p in predictions]
    return "index\tprediction\n" + "".join(f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True))
