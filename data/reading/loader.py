"""Shuffled batches that any process can start anywhere: the order is a function of the seed, nothing is remembered.

A run's records are one endless sequence, epoch after epoch, each epoch in an order of its own. One update of the model
takes the next rows of it, all ranks and micro-batches together, so that neither the number of ranks nor a restart
changes which records an update sees. Batches may straddle epochs; each record comes exactly once in each.

Where the records' lengths are known (`without_padding`), the records of an update are of like length, and each batch is
cut to one of a few widths, the same on all ranks, that its update's longest record fits into.
"""

from __future__ import annotations

import itertools
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from utils.errors import UserError

Batch = dict[str, np.ndarray]


class RecordSource(Protocol):
    """Records by number, wherever they come from."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """{feature: [len(indices), L]}."""
        ...

    def location(self, index: int) -> str:
        """Where a record stands, for messages."""
        ...


@dataclass(frozen=True)
class Records:
    """A run of a record set's records, whose values are checked as they are read.

    `below` maps a feature to the bound that its values must stay under (and 0 is the least): the framework ends the
    process for some values out of range, and silently computes nonsense for others.
    """

    source: RecordSource
    first: int = 0
    count: int | None = None
    below: Mapping[str, int] = field(default_factory=dict)
    transform: Callable[[Batch, np.ndarray], Batch] | None = None  # of a batch and its records' places, see read_batch
    lengths: np.ndarray | None = None  # [len(self)] tokens of each record, where batches are to be cut

    def __len__(self) -> int:
        return len(self.source) - self.first if self.count is None else self.count

    def read(self, indices: np.ndarray) -> Batch:
        """{feature: [len(indices), L]}; raises UserError for a value out of range, naming file and record."""
        batch = self.source.read(indices + self.first)
        for name, bound in self.below.items():
            if name not in batch:
                continue
            bad = ~((batch[name] >= 0) & (batch[name] < bound)).all(axis=1)  # a number that is none is bad, too
            if bad.any():
                row = int(np.argmax(bad))
                value = next(v for v in batch[name][row] if not 0 <= v < bound)
                where = self.source.location(int(indices[row]) + self.first)
                raise UserError(f"{where}: {name} holds {value}, but must be at least 0 and below {bound}.")
        return batch

    def checksum(self) -> int:
        """A number that tells sets apart: of their size, and of what some of their records hold."""
        some = np.unique(np.linspace(0, len(self) - 1, _COMPARED, dtype=np.int64))
        checksum = len(self)
        for _, array in sorted(self.source.read(some + self.first).items()):
            checksum = zlib.crc32(array.tobytes(), checksum)
        return checksum

    @property
    def known_lengths(self) -> np.ndarray | None:
        """[len(self)]: bounds of the records' lengths, where the source has them (as its `lengths`)."""
        known: np.ndarray | None = getattr(self.source, "lengths", None)
        return None if known is None else known[self.first : self.first + len(self)]

    @cached_property
    def widths(self) -> np.ndarray:
        """int64 [W], rising: what batches are cut to. W is at most 4, because graph mode compiles each; of all such
        choices it is the one with the least padding."""
        assert self.lengths is not None
        unit = 8 * -(-int(self.lengths.max()) // 256)  # whole eights, at most 32 of these
        needed = np.bincount((self.lengths.astype(np.int64) + unit - 1) // unit)  # records by the units they need
        fitting = np.cumsum(needed).tolist()

        def positions(widths: tuple[int, ...]) -> int:
            return sum((fitting[width] - fitting[below]) * width for below, width in pairwise((0, *widths)))

        *shorter, longest = np.flatnonzero(needed).tolist()
        choices = itertools.combinations(shorter, min(_WIDTHS - 1, len(shorter)))
        return unit * np.array(min(((*choice, longest) for choice in choices), key=positions))

    def width(self, indices: np.ndarray) -> int | None:
        """What a batch that holds these records is cut to; None: it is left as it is."""
        if self.lengths is None:
            return None
        return int(self.widths[np.searchsorted(self.widths, self.lengths[indices].max())])


def without_padding(records: Records) -> Records:
    """The same records, read in batches of like length that are cut to it.

    The lengths are what the source knows; a source that knows none is read once.
    """
    known = records.known_lengths
    if known is None:
        chunks = np.split(np.arange(len(records)), range(_SCANNED, len(records), _SCANNED))
        read = [records.source.read(chunk + records.first)["input_mask"].sum(axis=1) for chunk in chunks]
        return replace(records, lengths=np.concatenate(read).astype(np.uint16))
    return replace(records, lengths=known)


_COMPARED = 64  # records
_WIDTHS = 4
_SCANNED = 4096  # records
_ALONG_THE_SEQUENCE = ("input_ids", "input_mask", "segment_ids")


@dataclass(frozen=True)
class Shard:
    """The part of each batch that one rank takes: `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def rows(self, count: int) -> slice:
        """This rank's rows of a batch of `count` rows, which is a multiple of the world's size."""
        share = count // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)


def training_batches(
    records: Records,
    *,
    rows: int | Iterable[int],
    group: int = 1,
    seed: int,
    start: int = 0,
    end: int | None = None,
    shard: Shard = Shard(),
) -> Iterator[Batch]:
    """This rank's share of every update's rows, read ahead by one batch.

    Args:
        records: the training set.
        rows: records of one update over all ranks and micro-batches, or of each of them in turn.
        group: so many records in a row are of like length, where lengths are known.
        seed: decides the order of every epoch.
        start: how many records of the sequence were taken before.
        end: where the sequence stops (default: never); rows beyond it fill up the last batch with weight 0.
    """

    def batches() -> Iterator[Batch]:
        position = start
        order = TrainingOrder(records, group, seed)
        for count in itertools.repeat(rows) if isinstance(rows, int) else rows:
            if end is not None and position >= end:
                return
            positions = np.arange(position, position + count, dtype=np.int64)
            indices = order.records_at(positions)
            real = positions < end if end is not None else np.ones(count, bool)
            own = shard.rows(count)
            yield read_batch(records, indices[own], real[own], positions[own], records.width(indices))
            position += count

    return read_ahead(batches())


def evaluation_batches(records: Records, *, rows: int, shard: Shard = Shard()) -> Iterator[Batch]:
    """This rank's share of batches of `rows` records in `evaluation_order`, each record once over all ranks."""

    def batches() -> Iterator[Batch]:
        order = evaluation_order(records)
        for position in range(0, len(records), rows):
            positions = np.arange(position, position + rows, dtype=np.int64)
            indices = order[np.minimum(positions, len(records) - 1)]
            own = shard.rows(rows)
            yield read_batch(records, indices[own], positions[own] < len(records), indices[own], records.width(indices))

    return read_ahead(batches())


def evaluation_order(records: Records) -> np.ndarray:
    """int64 [len(records)]: the order of the files or, where lengths are known, from the longest to the shortest."""
    if records.lengths is None:
        return np.arange(len(records))
    return np.argsort(-records.lengths.astype(np.int64), kind="stable")


def read_batch(
    records: Records, indices: np.ndarray, real: np.ndarray, places: np.ndarray, width: int | None = None
) -> Batch:
    """The records at `indices`, with `example_weights` [B]; rows that are not `real` weigh nothing in any loss.

    `places` [B] say which reading of which record each row is: training's numbers in the endless sequence, evaluation's
    record numbers. What is drawn anew at each reading is drawn from them. `width` is what sequences are cut to.
    """
    batch = records.read(indices)
    if records.transform:
        batch = records.transform(batch, places)
    batch["example_weights"] = real.astype(np.float32)
    if "masked_lm_weights" in batch:
        batch["masked_lm_weights"] = batch["masked_lm_weights"] * real[:, None].astype(np.float32)
    if width is not None:
        batch |= {name: batch[name][:, :width] for name in _ALONG_THE_SEQUENCE}
    return batch


class TrainingOrder:
    """Which record stands at which position of the endless sequence: a function of seed, lengths and group size.

    Without lengths it is `shuffled`. With them, `shuffled` gives windows of some dozens of groups; within a window the
    records are sorted by length and cut into groups, and these come in a random order. So the records of an update are
    of like length, but how long they are changes from update to update at random. Windows end where epochs do, groups
    at multiples of their size; what does not fill a group at an epoch's beginning and end is of the longest.
    """

    def __init__(self, records: Records, group: int, seed: int) -> None:
        self.count, self.lengths, self.group, self.seed = len(records), records.lengths, group, seed
        self.first, self.window = 0, np.zeros(0, np.int64)  # the window computed last, and where it begins

    def records_at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [n]: the numbers of the records at n positions that follow each other."""
        if self.lengths is None:
            return shuffled(positions, self.count, self.seed)
        position, end = int(positions[0]), int(positions[-1]) + 1
        parts = []
        while position < end:
            if not self.first <= position < self.first + len(self.window):
                self.first, self.window = self._window_of(position, self.lengths)
            parts.append(self.window[position - self.first : end - self.first])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _window_of(self, position: int, lengths: np.ndarray) -> tuple[int, np.ndarray]:
        size, epoch = _WINDOW * self.group, position // self.count
        number = position // size
        first, end = max(number * size, epoch * self.count), min((number + 1) * size, (epoch + 1) * self.count)
        records = shuffled(np.arange(first, end), self.count, self.seed)
        records = records[np.argsort(-lengths[records].astype(np.int64), kind="stable")]
        before = min(-first % self.group, end - first)
        after = min(end % self.group, end - first - before)
        random = np.random.default_rng([self.seed, epoch, number])
        groups = random.permutation(records[before + after :].reshape(-1, self.group))
        groups = random.permuted(groups, axis=1)  # ranks and micro-batches get alike shares
        return first, np.concatenate([records[:before], groups.ravel(), records[before : before + after]])


_WINDOW = 64  # groups


def shuffled(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Record numbers at positions of the endless sequence: a permutation of `range(count)` in each epoch.

    A Feistel network with a keyed hash permutes the next power of four, and numbers beyond `count` are sent through it
    again until they fall inside (cycle walking: Black & Rogaway 2002). It needs no memory and no look-back, where a
    permutation in memory takes gigabytes for a full corpus, on each rank.

    Args:
        positions: int64 [n], 0 for the first record of the first epoch.
        count: records of an epoch.
        seed: decides all epochs' orders.

    Returns:
        int64 [n], each in `range(count)`.
    """
    epochs, numbers = np.divmod(positions.astype(np.uint64), np.uint64(count))
    keys = mix(mix(np.uint64(seed)) ^ epochs)
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    pending = np.arange(len(numbers))
    while len(pending):
        left, right = numbers[pending] >> half, numbers[pending] & mask
        for stage in range(len(_STAGE_KEYS)):
            key = keys[pending] ^ _STAGE_KEYS[stage]
            left, right = right, left ^ (mix(right ^ key) & mask)
        numbers[pending] = (left << half) | right
        pending = pending[numbers[pending] >= count]
    return numbers.astype(np.int64)


def mix(x: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


_STAGE_KEYS = mix(np.arange(1, 7, dtype=np.uint64) << np.uint64(32))


def read_ahead(batches: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """The same batches, made by a thread while the model computes; an error there is raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # the consumer raises it
            put(error)

    threading.Thread(target=work, daemon=True, name="read-ahead").start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
