"""Holds out rows of a table for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.tables import Table
from utils.errors import UserError


def split(table: Table, fraction: float, seed: int, classes: Sequence[Any] | None = None) -> tuple[Table, Table]:
    """Splits a table into the rows to keep and the rows to hold out, both in file order.

    Args:
        table: the rows.
        fraction: the fraction to hold out.
        seed: determines the rows.
        classes: [n], the class of each row; the same fraction of each class is held out, rounded, but never all rows.

    Raises:
        UserError: a part would be empty.
    """
    random = np.random.default_rng(seed)
    groups: dict[str, list[int]] = {}
    for row in range(len(table)):
        groups.setdefault(str(classes[row]) if classes is not None else "", []).append(row)
    held: set[int] = set()
    for rows in groups.values():
        count = min(round(fraction * len(rows)), len(rows) - 1)
        held.update(random.permutation(rows)[:count].tolist())
    if not held:
        raise UserError(
            f"--validation_fraction {fraction} of the {len(table)} rows of {table.path} is less than one row: raise it."
        )
    return table.take(row for row in range(len(table)) if row not in held), table.take(sorted(held))
