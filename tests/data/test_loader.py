"""Batches: every record once an epoch, the same order for any number of ranks, and an exact continuation."""

import numpy as np
import pytest

from data.loader import Records, Shard, evaluation_batches, read_ahead, shuffled, training_batches
from utils.errors import UserError


class NumberedRecords:
    """A record set in memory whose records hold their own number."""

    def __init__(self, count):
        self.numbers = np.arange(count)
        self.shards = ["part-0"]

    def __len__(self):
        return len(self.numbers)

    def read(self, indices):
        numbers = self.numbers[indices][:, None].astype(np.int32)
        return {"input_ids": numbers, "masked_lm_weights": np.ones((len(indices), 3), np.float32)}

    def location(self, index):
        return f"part-0: record {index}"


def taken(batches):
    rows = [(batch["input_ids"][:, 0], batch["example_weights"]) for batch in batches]
    return [numbers[weights > 0].tolist() for numbers, weights in rows]


@pytest.mark.parametrize("count", [1, 2, 3, 37, 64, 65, 1000])
def test_each_epoch_is_a_permutation_of_its_own(count):
    order = shuffled(np.arange(3 * count), count, seed=5).reshape(3, count)
    assert (np.sort(order) == np.arange(count)).all()
    if count > 30:
        assert len({tuple(epoch) for epoch in order.tolist()}) == 3
        assert (shuffled(np.arange(count), count, seed=6) != order[0]).any()


def test_orders_are_uniform():
    """Each of 5 records stands in each place in a fifth of the epochs (chi-squared, 16 degrees of freedom)."""
    epochs = 6000
    order = shuffled(np.arange(5 * epochs), 5, seed=1).reshape(epochs, 5)
    table = np.stack([np.bincount(order[:, place], minlength=5) for place in range(5)])
    assert ((table - epochs / 5) ** 2 / (epochs / 5)).sum() < 45  # p < 1e-4 beyond


def test_neighbours_scatter():
    order = shuffled(np.arange(1000), 1000, seed=3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.12
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12


@pytest.mark.parametrize(("count", "rows", "epochs"), [(37, 6, 2), (5, 8, 3), (24, 6, 1)])
def test_training_takes_each_record_once_an_epoch(count, rows, epochs):
    records = Records(NumberedRecords(count))
    batches = taken(training_batches(records, rows=rows, seed=7, end=count * epochs))
    flat = [number for batch in batches for number in batch]
    for epoch in range(epochs):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert len(flat) == count * epochs


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_same_updates(world_size):
    records = Records(NumberedRecords(37))
    whole = taken(training_batches(records, rows=6, seed=7, end=74))
    parts = [
        taken(training_batches(records, rows=6, seed=7, end=74, shard=Shard(rank, world_size)))
        for rank in range(world_size)
    ]
    assert [[n for part in update for n in part] for update in zip(*parts, strict=True)] == whole


def test_a_later_start_continues_the_sequence():
    records = Records(NumberedRecords(37))
    whole = taken(training_batches(records, rows=6, seed=7, end=74))
    assert taken(training_batches(records, rows=6, seed=7, start=24, end=74)) == whole[4:]


@pytest.mark.parametrize(("count", "rows", "world_size"), [(37, 6, 2), (3, 8, 4), (12, 6, 3)])
def test_evaluation_counts_each_record_once_over_all_ranks(count, rows, world_size):
    records = Records(NumberedRecords(count))
    seen = [
        number
        for rank in range(world_size)
        for batch in taken(evaluation_batches(records, rows=rows, shard=Shard(rank, world_size)))
        for number in batch
    ]
    assert sorted(seen) == list(range(count))


def test_filling_rows_weigh_nothing():
    (batch,) = evaluation_batches(Records(NumberedRecords(3)), rows=5)
    assert batch["example_weights"].tolist() == [1, 1, 1, 0, 0]
    assert batch["masked_lm_weights"].sum(axis=1).tolist() == [3, 3, 3, 0, 0]


def test_a_span_of_records():
    records = Records(NumberedRecords(37), first=30, count=4)
    assert taken(evaluation_batches(records, rows=4)) == [[30, 31, 32, 33]]


def test_values_out_of_range_name_the_record():
    records = Records(NumberedRecords(37), below={"input_ids": 30})
    with pytest.raises(UserError, match=r"part-0: record 30: input_ids holds 30, but must be at least 0 and below 30"):
        list(evaluation_batches(records, rows=4))


def test_reading_ahead_keeps_order_and_raises_the_readers_error():
    def batches():
        yield from (1, 2, 3)
        raise UserError("broken.")

    seen = []
    with pytest.raises(UserError, match="broken"):
        for item in read_ahead(batches()):
            seen.append(item)
    assert seen == [1, 2, 3]
