"""Reads the labels of a table: one per text, several per text, or a number.

Shapes: `n` rows, `C` labels.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.tables import Table
from utils.errors import UserError

SINGLE, SEVERAL, NUMBER = "", "multi_label_classification", "regression"  # values of `problem_type` in config.json
_LARGEST = float(np.finfo(np.float32).max)  # scores are stored in float32
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Labels:
    """How a label column is read.

    Attributes:
        column: the column's name.
        problem_type: `SINGLE`, `SEVERAL` or `NUMBER`.
        separator: separates several labels in one field.
        names: the label names, by class number; "score" for a number.
    """

    column: str
    problem_type: str
    separator: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, column: str, problem_type: str, separator: str) -> Labels:
        """Collects the labels of a training table, sorted.

        Raises:
            UserError: there is only one label, or a label has only one example, which is probably a typo.
        """
        if problem_type == NUMBER:
            return cls(column, problem_type, separator, ("score",))
        rows = [_names(table, row, value, problem_type, separator) for row, value in enumerate(table.columns[column])]
        counts = Counter(name for names in rows for name in names)
        for row, names in enumerate(rows):
            rare = next((name for name in names if counts[name] == 1), None)
            if rare is not None:
                raise UserError(
                    f"{table.location(row)} has the only example of the label {rare!r}: add examples, or correct the "
                    "label."
                )
        if not counts or (len(counts) == 1 and problem_type == SINGLE):
            found = f"only the label {next(iter(counts))!r}" if counts else "no labels"
            raise UserError(f"{table.path} has {found} in {column!r}: at least 2 are needed.")
        return cls(column, problem_type, separator, tuple(sorted(counts, key=_order(counts))))

    def encode(self, table: Table) -> np.ndarray:
        """int32 [n] classes, float32 [n] numbers, or float32 [n, C] with 1 for each of several labels.

        Raises:
            UserError: a label is unknown or missing, or a number is NaN or infinite.
        """
        values = table.columns[self.column]
        if self.problem_type == NUMBER:
            return np.array([_number(table, row, value) for row, value in enumerate(values)], np.float32)
        numbers = {name: number for number, name in enumerate(self.names)}
        several = self.problem_type == SEVERAL
        encoded = np.zeros((len(table), len(self.names)), np.float32) if several else np.zeros(len(table), np.int32)
        for row, value in enumerate(values):
            for name in _names(table, row, value, self.problem_type, self.separator):
                if name not in numbers:
                    raise UserError(
                        f"{table.location(row)} has the label {name!r}, which the training data lacks: its labels are "
                        f"{_shortened(self.names)}."
                    )
                if several:
                    encoded[row, numbers[name]] = 1
                else:
                    encoded[row] = numbers[name]
        return encoded


def guess_problem_type(values: Sequence[Any]) -> str:
    """Guesses the problem type: lists mean several labels; numbers that are not all whole mean regression."""
    if any(isinstance(value, list) for value in values):
        return SEVERAL
    numbers = [_float(value) for value in values]
    if any(number is None for number in numbers):
        return SINGLE
    return SINGLE if all(_WHOLE.fullmatch(_text(value)) for value in values) else NUMBER


def _names(table: Table, row: int, value: Any, problem_type: str, separator: str) -> list[str]:
    """The labels of one row."""
    if problem_type == SEVERAL:
        parts = value if isinstance(value, list) else _text(value).split(separator)
        if any(part is None or isinstance(part, list | dict) for part in parts):
            raise UserError(f"{table.location(row)} has the labels {json.dumps(value)}: write each label as a text.")
        return list(dict.fromkeys(name for name in map(_text, parts) if name))
    if isinstance(value, list | dict):
        raise UserError(
            f"{table.location(row)} has the label {json.dumps(value)}: a list of labels needs --problem_type "
            "multi_label."
        )
    name = "" if value is None else _text(value)
    if not name:
        raise UserError(f"{table.location(row)} has no label: add one, or remove the row.")
    return [name]


def _number(table: Table, row: int, value: Any) -> float:
    number = _float(value)
    if number is None or not math.isfinite(number) or abs(number) > _LARGEST:
        raise UserError(
            f"{table.location(row)} has the score {_text(value)!r}, which is not a finite number, or is too large."
        )
    return number


def _float(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool | list | dict) or value is None else float(value)
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _order(names: Sequence[str] | Counter[str]) -> Any:
    """The sort key of label names: by value if all are whole numbers."""
    return int if all(_WHOLE.fullmatch(name) for name in names) else str


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
