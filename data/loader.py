"""Shuffled batches that any process can start anywhere: the order is a function of the seed, nothing is remembered.

A run's records are one endless sequence, epoch after epoch, each epoch in an order of its own. One update of the model
takes the next rows of it, all ranks and micro-batches together, so that neither the number of ranks nor a restart
changes which records an update sees. Batches may straddle epochs; each record comes exactly once in each.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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

    def __len__(self) -> int:
        return len(self.source) - self.first if self.count is None else self.count

    def read(self, indices: np.ndarray) -> Batch:
        """{feature: [len(indices), L]}; raises UserError for a value out of range, naming file and record."""
        batch = self.source.read(indices + self.first)
        for name, bound in self.below.items():
            if name not in batch:
                continue
            bad = ((batch[name] < 0) | (batch[name] >= bound)).any(axis=1)
            if bad.any():
                row = int(np.argmax(bad))
                value = next(v for v in batch[name][row] if not 0 <= v < bound)
                where = self.source.location(int(indices[row]) + self.first)
                raise UserError(f"{where}: {name} holds {value}, but must be at least 0 and below {bound}.")
        return batch


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
    seed: int,
    start: int = 0,
    end: int | None = None,
    shard: Shard = Shard(),
) -> Iterator[Batch]:
    """This rank's share of every update's rows, read ahead by one batch.

    Args:
        records: the training set.
        rows: records of one update over all ranks and micro-batches, or of each of them in turn.
        seed: decides the order of every epoch.
        start: how many records of the sequence were taken before.
        end: where the sequence stops (default: never); rows beyond it fill up the last batch with weight 0.
    """

    def batches() -> Iterator[Batch]:
        position = start
        for count in itertools.repeat(rows) if isinstance(rows, int) else rows:
            if end is not None and position >= end:
                return
            positions = np.arange(position, position + count, dtype=np.int64)[shard.rows(count)]
            real = positions < end if end is not None else np.ones(len(positions), bool)
            yield read_batch(records, shuffled(positions, len(records), seed), real, positions)
            position += count

    return read_ahead(batches())


def evaluation_batches(records: Records, *, rows: int, shard: Shard = Shard()) -> Iterator[Batch]:
    """This rank's share of batches of `rows` records in the order of the files, each record once over all ranks."""

    def batches() -> Iterator[Batch]:
        for position in range(0, len(records), rows):
            positions = np.arange(position, position + rows, dtype=np.int64)[shard.rows(rows)]
            indices = np.minimum(positions, len(records) - 1)
            yield read_batch(records, indices, positions < len(records), indices)

    return read_ahead(batches())


def read_batch(records: Records, indices: np.ndarray, real: np.ndarray, places: np.ndarray) -> Batch:
    """The records at `indices`, with `example_weights` [B]; rows that are not `real` weigh nothing in any loss.

    `places` [B] say which reading of which record each row is: training's numbers in the endless sequence, evaluation's
    record numbers. What is drawn anew at each reading is drawn from them.
    """
    batch = records.read(indices)
    if records.transform:
        batch = records.transform(batch, places)
    batch["example_weights"] = real.astype(np.float32)
    if "masked_lm_weights" in batch:
        batch["masked_lm_weights"] = batch["masked_lm_weights"] * real[:, None].astype(np.float32)
    return batch


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
