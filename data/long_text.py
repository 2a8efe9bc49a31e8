"""Chooses the tokens that a classifier reads from texts that are too long.

Shapes: `t` texts of a row (1, or 2 of a pair), `n` rows, `r` records. A record is one model input; with
"windows", a row may have several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from configs.model import LongText

HEAD_SHARE = 4  # head_tail keeps a quarter from the beginning, 128 of 510 tokens, as Sun et al. 2019 do


@dataclass(frozen=True)
class Cuts:
    """The tokens of each record: token `j` of a text is its token `j`, or `j + shift` from `head` on.

    Attributes:
        row: [r], the row of each record, in ascending order.
        kept: [t, r], tokens of each text.
        head, shift: [t, r].
    """

    row: np.ndarray
    kept: np.ndarray
    head: np.ndarray
    shift: np.ndarray

    def tokens(self, text: int, record: int) -> np.ndarray:
        """[kept], the indices of the tokens of one text in one record."""
        inside = np.arange(self.kept[text, record])
        return inside + np.where(inside < self.head[text, record], 0, self.shift[text, record])


def fitting_lengths(counts: np.ndarray, longest: int) -> np.ndarray:
    """[t, n] lengths that fit into `longest`; the longer text is shortened, or the second if they are equal."""
    if len(counts) == 1:
        return np.minimum(counts, longest)
    first, second = counts
    # If both are long, each gets half, and the first text gets the odd token; if one is short, the other gets the rest.
    kept_first = np.where(
        first + second <= longest, first, np.minimum(first, np.maximum(longest - second, (longest + 1) // 2))
    )
    return np.stack([kept_first, np.minimum(second, longest - kept_first)])


def cut(counts: np.ndarray, longest: int, how: LongText) -> Cuts:
    """Cuts texts of `counts` [t, n] tokens into records of at most `longest` text tokens."""
    assert how in get_args(LongText)
    kept = fitting_lengths(counts, longest)
    rows, excess = np.arange(counts.shape[1]), counts - kept
    if how == "truncate_tail":
        return Cuts(rows, kept, kept, excess)
    if how == "truncate_head":
        return Cuts(rows, kept, np.zeros_like(kept), excess)
    if how == "head_tail":
        return Cuts(rows, kept, -(-kept // HEAD_SHARE), excess)
    step = np.maximum(kept - kept // 4, 1)
    last = -(-excess // step)  # [t, n], the index of each text's last window
    windows = last.max(axis=0) + 1
    row = np.repeat(rows, windows)
    number = np.arange(len(row)) - np.repeat(np.cumsum(windows) - windows, windows)
    shift = np.minimum(np.minimum(number, last[:, row]) * step[:, row], excess[:, row])
    return Cuts(row, kept[:, row], np.zeros_like(shift), shift)


def mean_by_row(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """[n, L] means of the records' values [r, L] over the records of each row."""
    counts = np.bincount(row)
    if len(counts) == len(values):
        return values
    starts = np.cumsum(counts) - counts
    means: np.ndarray = np.add.reduceat(values, starts, axis=0) / counts[:, None].astype(values.dtype)
    return means
