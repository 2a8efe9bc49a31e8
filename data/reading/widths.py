"""Chooses the widths that batches are cut to with `--padding longest`."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np

_MAX_WIDTHS = 4  # graph mode compiles one graph for each


def batch_widths(lengths: np.ndarray) -> np.ndarray:
    """int64 [W], ascending, W <= 4: the widths with the least padding for records of these `lengths`."""
    unit = 8 * -(-int(lengths.max()) // 256)  # a multiple of 8, and at most 32 units
    needed = np.bincount((lengths.astype(np.int64) + unit - 1) // unit)  # number of records by units needed
    fitting = np.cumsum(needed).tolist()

    def positions(widths: tuple[int, ...]) -> int:
        return sum((fitting[width] - fitting[below]) * width for below, width in pairwise((0, *widths)))

    *shorter, longest = np.flatnonzero(needed).tolist()
    choices = itertools.combinations(shorter, min(_MAX_WIDTHS - 1, len(shorter)))
    return unit * np.array(min(((*choice, longest) for choice in choices), key=positions))
