"""GLUE's tasks: their files, labels and metrics.

Shapes: `n` sentences or pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.classification import TextExamples
from utils.errors import UserError
from utils.messages import warn


@dataclass(frozen=True)
class GlueTask:
    """One task, with the layout of its files in the GLUE download."""

    directory: str
    text_columns: tuple[str, ...]  # the columns of the sentence, or of both sentences of a pair
    label_column: str
    labels: tuple[str, ...]  # by class number; empty if the label is a score
    metrics: tuple[str, ...]
    dev_sets: tuple[str, ...] = ("dev",)
    test_sets: tuple[str, ...] = ("test",)
    leaderboard_files: tuple[str, ...] = ()  # one per test set; default: one file named after the directory
    headless_columns: tuple[str, ...] = ()  # of training and development files without a header
    meanings: tuple[str, ...] = ()  # names of labels that are numbers in the files

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label names in the model's configuration, by class number, or "score"."""
        return self.meanings or self.labels or ("score",)

    @property
    def submissions(self) -> dict[str, str]:
        """{test set: the name of its file for the leaderboard}."""
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


def task_directory(data_dir: str | Path, task: GlueTask, *, of_several: bool = False) -> Path:
    """The directory of a task's files: the sub-directory of `data_dir` with the task's name, or `data_dir` itself.

    Args:
        data_dir: the GLUE download, or a task's directory.
        task: the task.
        of_several: whether other tasks are wanted as well, so that only the GLUE download will do.

    Raises:
        UserError: the directory is not there, or contains no such files.
    """
    directory = Path(data_dir)
    inner = directory / task.directory
    if inner.is_dir():
        return inner
    if not directory.is_dir():
        raise UserError(
            f"--data_dir {directory} is not a directory: pass the directory of the GLUE download, or that of the task."
        )
    if of_several:
        raise UserError(
            f"--task_name all needs a directory for every task, but {inner} does not exist: download {task.directory}, "
            "or run single tasks."
        )
    if not any(directory.glob("*.tsv")):
        raise UserError(
            f"--data_dir {directory} contains neither a directory {task.directory} nor .tsv files: name the GLUE "
            f"download, or {task.directory}'s directory in it."
        )
    return directory


def read_examples(directory: Path, task: GlueTask, name: str, *, strict: bool = False) -> TextExamples:
    """Read `directory/name.tsv`.

    The published QQP and other files contain rows with too few fields. In training and development sets they are
    skipped with a warning; a test set must be complete, because the leaderboard needs a prediction for each row.

    Args:
        directory: the directory of the task's files.
        task: the task.
        name: "train", or one of the task's development or test sets.
        strict: rows with too few fields are errors.

    Raises:
        UserError: the file is missing or empty, or a row has too many fields or an unknown label; the message names
            file and line.
    """
    path = directory / f"{name}.tsv"
    testing = name in task.test_sets
    lines = _read_lines(path, task)
    headless = bool(task.headless_columns) and not testing
    columns = task.headless_columns if headless else tuple(lines[0].split("\t") if lines else ())
    wanted = (*task.text_columns, *(() if testing else (task.label_column,)))
    for column in wanted:
        if column not in columns:
            raise UserError(
                f"{path} line 1 has no column {column!r}, so it is not {task.directory}'s {name}.tsv: replace it."
            )
    rows = _rows(lines, columns, path, skip_header=not headless, strict=strict or testing)
    texts = tuple([row[columns.index(column)] for row in rows.values()] for column in task.text_columns)
    words = {} if testing else {line: row[columns.index(task.label_column)] for line, row in rows.items()}
    labels = None if testing else _labels(words, task, path)
    indices = [row[0] for row in rows.values()] if testing else []
    return TextExamples(path, tuple(rows), texts, labels, indices)


def _read_lines(path: Path, task: GlueTask) -> list[str]:
    """The lines of a file, without blank lines at its end."""
    try:
        lines = [line.removesuffix("\r") for line in path.read_bytes().decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): --data_dir must contain {task.directory}'s files."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}).") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _rows(
    lines: list[str], columns: tuple[str, ...], path: Path, *, skip_header: bool, strict: bool
) -> dict[int, list[str]]:
    """{line: fields} of complete rows; warns about rows with too few fields."""
    rows: dict[int, list[str]] = {}
    short: list[int] = []
    for number, line in enumerate(lines[skip_header:], 1 + skip_header):
        row = line.split("\t")
        if len(row) == len(columns):
            rows[number] = row
        elif len(row) > len(columns) or strict:
            raise UserError(f"{path} line {number} has {len(row)} fields, not {len(columns)}: correct or remove it.")
        else:
            short.append(number)
    if short:
        warn(
            f"{path}: {len(short)} of {len(rows) + len(short)} rows have fewer than {len(columns)} fields and are "
            f"skipped, the first in line {short[0]}. --strict_data True makes this an error."
        )
    if not rows:
        raise UserError(f"{path} contains no rows.")
    return rows


def _labels(words: dict[int, str], task: GlueTask, path: Path) -> np.ndarray:
    numbers = {label: number for number, label in enumerate(task.labels)}
    labels = np.empty(len(words), np.int32 if task.labels else np.float32)
    for row, (line, word) in enumerate(words.items()):
        try:
            labels[row] = numbers[word] if task.labels else _score(word)
        except (KeyError, ValueError):
            known = ", ".join(task.labels) if task.labels else f"a score from 0 to {HIGHEST_SCORE:g}"
            raise UserError(f"{path} line {line} has the label {word!r}, not {known}.") from None
    return labels


def _score(word: str) -> float:
    score = float(word)
    if not 0 <= score <= HIGHEST_SCORE:  # NaN counts as out of range
        raise ValueError
    return score


def submission(predictions: np.ndarray, task: GlueTask, indices: Sequence[str]) -> str:
    """The content of a leaderboard file: `index<tab>prediction`, then labels, or scores with three decimals."""
    words = [task.labels[int(p)] if task.labels else f"{np.clip(p, 0, HIGHEST_SCORE):.3f}" for p in predictions]
    return "index\tprediction\n" + "".join(f"{index}\t{word}\n" for index, word in zip(indices, words, strict=True))
