"""Batches without padding: the tokens of a micro-batch's records, one record behind the other.

Either each micro-batch has the same number of records, or as many as fit into its tokens (`best_fit`).

Shapes: `R` records of a batch, `S` sequence, `G` groups (the micro-batches of one rank), `T` tokens of a group, `M`
packed rows, `K` the most records of a packed row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from data.counter_random import shuffled

PACKED = TOKENS, PLACES = "packed_tokens", "packed_places"  # what `pack` adds to a batch
_MAX_SIZES = 8  # graph mode compiles one graph for each
_SAMPLED = 4096  # groups
_OPEN_ROWS = 64
_MOST_RECORDS = 1.25  # in a packed row, times the mean: the heads also compute the empty places


def group_sizes(lengths: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """int64 [<= 9], rising: the numbers of tokens that groups of `rows` records are filled up to.

    Eight of them divide groups of random records into equal shares; the last one fits every group.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    groups = np.resize(order, rows * min(_SAMPLED, -(-len(order) // rows))).reshape(-1, rows)
    totals = lengths[groups].sum(axis=1, dtype=np.int64)
    sizes = np.quantile(totals, np.arange(1, _MAX_SIZES + 1) / _MAX_SIZES, method="higher")
    return np.unique(_rounded(np.append(sizes, rows * int(lengths.max()))))


def group_size(sizes: np.ndarray, lengths: np.ndarray, rows: int) -> int:
    """The smallest of `sizes` that fits each group of `rows` consecutive records of these lengths."""
    return int(sizes[np.searchsorted(sizes, lengths.reshape(-1, rows).sum(axis=1, dtype=np.int64).max())])


@dataclass(frozen=True)
class PackedRows:
    """The records of each packed row.

    Attributes:
        records: int64 [M, K], -1 behind the last record of a row; each record is in exactly one row.
        tokens: `T`, the capacity of a row.
        fill: the share of the rows' capacity that the records' tokens take.
    """

    records: np.ndarray
    tokens: int
    fill: float

    def __len__(self) -> int:
        return len(self.records)


def best_fit(lengths: np.ndarray, tokens: int, seed: int) -> PackedRows:
    """Fill rows of `tokens` tokens with whole records.

    The records come in a random order. Each one goes into the open row in which it leaves the least space. If it fits
    into none, it opens a new row; of more than 64 open rows, the fullest is closed (Johnson 1974, k-bounded best fit).
    """
    limit = max(1, round(_MOST_RECORDS * tokens / float(lengths.mean())))
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free tokens, row), rising
    for record in shuffled(np.arange(len(lengths)), len(lengths), seed).tolist():
        length = int(lengths[record])
        fitting = bisect_left(open_rows, (length, -1))
        if fitting < len(open_rows):
            free, row = open_rows.pop(fitting)
        else:
            del open_rows[: len(open_rows) - _OPEN_ROWS + 1]
            free, row = tokens, len(rows)
            rows.append([])
        rows[row].append(record)
        if free > length and len(rows[row]) < limit:
            insort(open_rows, (free - length, row))
    members = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for row, records in enumerate(rows):
        members[row, : len(records)] = records
    return PackedRows(members, tokens, float(lengths.sum(dtype=np.int64)) / (len(rows) * tokens))


def pack(batch: dict[str, np.ndarray], rows: int, size: int) -> dict[str, np.ndarray]:
    """Add the tokens of each group of `rows` records without padding.

    Args:
        batch: `input_ids`, `input_mask`, `segment_ids` [R, S], and features that stay as they are.
        rows: records of a group.
        size: `T`, at least the tokens of every group.

    Returns:
        The batch with `packed_tokens` int32 [G, 4, T] and `packed_places` int32 [R, S]. The former holds ids, segments,
        positions and, counted from 1, the number of each token's record in its group; all are 0 where a group has fewer
        than T tokens. The latter tells where each token of a record lies in its group, and 0 for padding.
    """
    mask = batch["input_mask"] != 0
    records, length = mask.shape
    groups = records // rows
    row, position = np.nonzero(mask)
    group = row // rows
    counts = np.bincount(group, minlength=groups)
    place = np.arange(len(row)) - (np.cumsum(counts) - counts)[group]
    tokens = np.zeros((groups, 4, size), np.int32)
    for number, values in enumerate((batch["input_ids"][mask], batch["segment_ids"][mask], position, row % rows + 1)):
        tokens[group, number, place] = values
    places = np.zeros((records, length), np.int32)
    places[row, position] = place
    return {**batch, TOKENS: tokens, PLACES: places}


def _rounded(sizes: np.ndarray) -> np.ndarray:
    return np.asarray(-(-sizes.astype(np.int64) // 8) * 8)
