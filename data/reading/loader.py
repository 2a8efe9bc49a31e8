"""One rank's batches of records, for training and evaluation.

One update takes the next rows of the endless sequence (`order`), for all ranks and micro-batches together. Batches may
straddle epochs; every record is used exactly once per epoch.

Where the records' lengths are known (`without_padding`), there are two ways to compute less padding. Either the records
of an update have similar lengths, and each batch is cut to one of a few widths, the smallest that the longest record of
the update fits into, the same on all ranks. Or each batch also holds its records one behind the other (packing.py).
In the latter case, the training set may be a set of packed rows, each of which is a micro-batch of one rank. Positions
in the endless sequence then count packed rows instead of records.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from data.reading.order import TrainingOrder
from data.reading.packing import PackedRows, best_fit, group_size, group_sizes, pack
from data.reading.prefetch import read_ahead
from data.reading.widths import batch_widths
from data.records.features import SEQUENCE
from utils.errors import UserError

Batch = dict[str, np.ndarray]
_COMPARED = 64  # records
_SCANNED = 4096  # records


class RecordSource(Protocol):
    """Records by index, from any source."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """{feature: [len(indices), L]}."""
        ...

    def location(self, index: int) -> str:
        """The file of a record and its index in the file, for messages."""
        ...


@dataclass(frozen=True)
class Records:
    """A range of a source's records, whose values are checked as they are read.

    For values out of range, OneFlow aborts the process or silently computes wrong results.

    Attributes:
        source: where the records come from.
        first, count: the range (default: all).
        below: {feature: bound}: its values are at least 0 and below the bound.
        transform: applied to each batch; it also receives the positions of `read_batch`.
        lengths: [len(self)] tokens of each record, if batches are cut to them or packed.
        packs: whether batches are packed. Records then come in the order that they have with padding.
        along_sequence: task features with one value per token, which are cut together with the inputs.
        packed_rows: the records of each packed row, if training takes packed rows instead of records.
    """

    source: RecordSource
    first: int = 0
    count: int | None = None
    below: Mapping[str, int] = field(default_factory=dict)
    transform: Callable[[Batch, np.ndarray], Batch] | None = None
    lengths: np.ndarray | None = None
    along_sequence: tuple[str, ...] = ()
    packs: bool = False
    packed_rows: PackedRows | None = None

    def __len__(self) -> int:
        return len(self.source) - self.first if self.count is None else self.count

    def read(self, indices: np.ndarray) -> Batch:
        """{feature: [len(indices), L]}; raises UserError for a value out of range, naming file and record."""
        batch = self.source.read(indices + self.first)
        for name, bound in self.below.items():
            if name not in batch:
                continue
            bad = ~((batch[name] >= 0) & (batch[name] < bound)).all(axis=1)  # NaN counts as out of range
            if bad.any():
                row = int(np.argmax(bad))
                value = next(v for v in batch[name][row] if not 0 <= v < bound)
                where = self.source.location(int(indices[row]) + self.first)
                raise UserError(f"{where}: {name} has the value {value}, but must be at least 0 and below {bound}.")
        return batch

    @property
    def epoch_rows(self) -> int:
        """The number of rows in an epoch of training: packed rows or records."""
        return len(self) if self.packed_rows is None else len(self.packed_rows)

    def checksum(self) -> int:
        """A checksum of the size and of a few records, to compare sets between ranks."""
        some = np.unique(np.linspace(0, len(self) - 1, _COMPARED, dtype=np.int64))
        checksum = len(self)
        for _, array in sorted(self.source.read(some + self.first).items()):
            checksum = zlib.crc32(array.tobytes(), checksum)
        return checksum

    @property
    def known_lengths(self) -> np.ndarray | None:
        """[len(self)]: upper bounds of the records' lengths; None if the source does not provide them."""
        known: np.ndarray | None = getattr(self.source, "lengths", None)
        return None if known is None else known[self.first : self.first + len(self)]

    @property
    def sorting_lengths(self) -> np.ndarray | None:
        """The lengths that records are sorted by; None if lengths do not change their order."""
        return None if self.packs else self.lengths

    @cached_property
    def widths(self) -> np.ndarray:
        """The widths that batches are cut to, see `batch_widths`."""
        assert self.lengths is not None
        return batch_widths(self.lengths)

    def width(self, indices: np.ndarray) -> int | None:
        """The width that a batch of these records is cut to; None if batches keep their width."""
        if self.sorting_lengths is None:
            return None
        return int(self.widths[np.searchsorted(self.widths, self.sorting_lengths[indices].max())])

    def packing(self, rows: int, seed: int = 0) -> Callable[[Batch, np.ndarray], Batch]:
        """Packs groups of `rows` records, if batches are packed.

        The function that it returns takes this rank's rows of a batch and the numbers of the records of all ranks.
        """
        if not self.packs or self.lengths is None:
            return lambda batch, indices: batch
        lengths, sizes = self.lengths, group_sizes(self.lengths, rows, seed)
        return lambda batch, indices: pack(batch, rows, group_size(sizes, lengths[indices], rows))


def without_padding(records: Records) -> Records:
    """The same records, but read in batches of similar lengths that are cut to fit.

    If the source does not provide lengths, all records are read once.
    """
    known = records.known_lengths
    if known is None:
        chunks = np.split(np.arange(len(records)), range(_SCANNED, len(records), _SCANNED))
        read = [records.source.read(chunk + records.first)["input_mask"].sum(axis=1) for chunk in chunks]
        return replace(records, lengths=np.concatenate(read).astype(np.uint16))
    return replace(records, lengths=known)


def in_packed_rows(records: Records, tokens: int, seed: int) -> Records:
    """The same records without padding; training reads them in packed rows of this many tokens (`best_fit`)."""
    assert records.lengths is not None
    return replace(records, packed_rows=best_fit(records.lengths, tokens, seed))


@dataclass(frozen=True)
class RankSlice:
    """Selects one data-parallel rank's rows of each batch: part `rank` of `world_size` equal parts."""

    rank: int = 0
    world_size: int = 1

    def rows(self, count: int, micro_rows: int | None = None) -> np.ndarray:
        """This rank's rows of a batch of `count` rows.

        It takes its part of each micro-batch, as one rank would compute the same rows together: a row's dropout mask
        follows from its place in the micro-batch.

        Args:
            count: rows of the batch.
            micro_rows: rows of each micro-batch over all ranks, a multiple of `world_size` (default: all rows).
        """
        share = (micro_rows or count) // self.world_size
        starts = np.arange(self.rank * share, count, micro_rows or count)
        own: np.ndarray = (starts[:, None] + np.arange(share)).ravel()
        return own


def training_batches(
    records: Records,
    *,
    rows: int | Iterable[int],
    micro_rows: int | None = None,
    group: int = 1,
    seed: int,
    start: int = 0,
    end: int | None = None,
    rank_slice: RankSlice = RankSlice(),
) -> Iterator[Batch]:
    """Yields this rank's rows of every update, read ahead by a thread.

    Args:
        records: the training set.
        rows: rows per update over all ranks and micro-batches, as one number or one per update. Packed rows count as
            rows, if the records are in packed rows.
        micro_rows: records of one micro-batch over all ranks, of which each rank packs its part if batches are
            packed (default: those of the update, or single records if batches are packed).
        group: how many consecutive records have similar lengths, if they are sorted by length.
        seed: determines the order of every epoch.
        start: the first position in the endless sequence.
        end: the position to stop at (default: never); rows beyond it pad the last batch, with weight 0.
        rank_slice: selects this rank's rows of each update.
    """

    def batches() -> Iterator[Batch]:
        position = start
        order = TrainingOrder(records.epoch_rows, records.sorting_lengths, group, seed)
        packed = records.packing((micro_rows or rank_slice.world_size) // rank_slice.world_size, seed)
        for count in itertools.repeat(rows) if isinstance(rows, int) else rows:
            if end is not None and position >= end:
                return
            positions = np.arange(position, position + count, dtype=np.int64)
            indices = order.records_at(positions)
            real = positions < end if end is not None else np.ones(count, bool)
            own = rank_slice.rows(count, micro_rows)
            if records.packed_rows:
                yield _read_packed_rows(records, records.packed_rows, indices[own], real[own], positions[own])
            else:
                batch = read_batch(records, indices[own], real[own], positions[own], records.width(indices))
                yield packed(batch, indices)
            position += count

    return read_ahead(batches())


def evaluation_batches(records: Records, *, rows: int, rank_slice: RankSlice = RankSlice()) -> Iterator[Batch]:
    """Yields this rank's part of batches of `rows` records in `evaluation_order`, each record once over all ranks."""

    def batches() -> Iterator[Batch]:
        order, packed = evaluation_order(records), records.packing(rows // rank_slice.world_size)
        for position in range(0, len(records), rows):
            positions = np.arange(position, position + rows, dtype=np.int64)
            indices = order[np.minimum(positions, len(records) - 1)]
            own = rank_slice.rows(rows)
            real = positions[own] < len(records)
            batch = read_batch(records, indices[own], real, indices[own], records.width(indices))
            yield packed(batch, indices)

    return read_ahead(batches())


def evaluation_order(records: Records) -> np.ndarray:
    """int64 [len(records)]: the order of the files or, if length sorts them, from the longest to the shortest."""
    if records.sorting_lengths is None:
        return np.arange(len(records))
    return np.argsort(-records.sorting_lengths.astype(np.int64), kind="stable")


def read_batch(
    records: Records, indices: np.ndarray, real: np.ndarray, positions: np.ndarray, width: int | None = None
) -> Batch:
    """Reads the records at `indices` [B], and adds `example_weights` [B].

    Args:
        records: the set.
        indices: the records' indices.
        real: bool [B]; False for padding rows, which have weight 0 in every loss.
        positions: [B], the seed of random choices such as dynamic masks: in training the position in the endless
            sequence, in evaluation the record's index.
        width: the width to cut sequences to (default: no cut).
    """
    batch = records.read(indices)
    if records.transform:
        batch = records.transform(batch, positions)
    for name in [name for name in batch if name.endswith("_weights")]:
        batch[name] = batch[name] * real[:, None].astype(np.float32)
    batch["example_weights"] = real.astype(np.float32)
    if width is not None:
        batch |= {name: batch[name][..., :width] for name in (*SEQUENCE, *records.along_sequence) if name in batch}
    return batch


def _read_packed_rows(
    records: Records, rows: PackedRows, numbers: np.ndarray, real: np.ndarray, positions: np.ndarray
) -> Batch:
    """Reads the packed rows of these numbers [G] as a batch of G*K records.

    The places after the last record of a row have weight 0 and no tokens.
    """
    members = rows.records[numbers]  # [G, K]
    used = (members >= 0).ravel()
    indices = np.where(members < 0, members[:, :1], members)
    seeds = positions[:, None] // len(rows) * len(records) + indices  # differ between records and between epochs
    batch = read_batch(records, indices.ravel(), used & np.repeat(real, members.shape[1]), seeds.ravel())
    batch["input_mask"] = batch["input_mask"] * used[:, None].astype(batch["input_mask"].dtype)
    return pack(batch, members.shape[1], rows.tokens)
