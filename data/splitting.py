"""Holds out rows of a table for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.tables import Table
from utils.errors import UserError


def split(table: Table, fraction: float, seed: int, classes: Sequence[Any] | None = None) -> tuple[Table, Table]:
    """The rows that stay, and those that are held out, both in the order of the file.

    Args:
        table: the rows.
        fraction: the share to hold out.
        seed: draws the rows.
        classes: [n], the class of each row; of each, the same share is held out, rounded, but never all rows.

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
        raise UserError(f"--validation_fraction {fraction} of the {len(table)} rows of {table.path} holds out none.")
    return table.take(row for row in range(len(table)) if row not in held), table.take(sorted(held))
