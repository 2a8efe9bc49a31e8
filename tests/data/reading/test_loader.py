"""Batches: each record once an epoch, the same order for any number of ranks, and exact restarts."""

import numpy as np
import pytest

from data.reading.loader import (
    RankSlice,
    Records,
    evaluation_batches,
    evaluation_order,
    training_batches,
    without_padding,
)
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
        taken(training_batches(records, rows=6, seed=7, end=74, rank_slice=RankSlice(rank, world_size)))
        for rank in range(world_size)
    ]
    assert [[n for part in update for n in part] for update in zip(*parts, strict=True)] == whole


def test_ranks_share_each_micro_batch():
    records = Records(NumberedRecords(37))
    whole = taken(training_batches(records, rows=12, seed=7, end=74))
    first, second = (
        taken(training_batches(records, rows=12, micro_rows=4, seed=7, end=74, rank_slice=RankSlice(rank, 2)))
        for rank in range(2)
    )
    for update, *parts in zip(whole, first, second, strict=True):
        micro_batches = [[part[start : start + 2] for part in parts] for start in (0, 2, 4)]
        assert [n for parts in micro_batches for part in parts for n in part] == update


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
        for batch in taken(evaluation_batches(records, rows=rows, rank_slice=RankSlice(rank, world_size)))
        for number in batch
    ]
    assert sorted(seen) == list(range(count))


class LongAndShort(NumberedRecords):
    """Records of 1 to 97 tokens, whose second token, if there is one, is the record's number."""

    SEQ_LENGTH = 101

    def __init__(self, count):
        super().__init__(count)
        self.tokens = np.random.default_rng(3).integers(1, 98, count)

    def read(self, indices):
        mask = (np.arange(self.SEQ_LENGTH) < self.tokens[indices][:, None]).astype(np.int32)
        ids = np.repeat(self.numbers[indices][:, None], self.SEQ_LENGTH, axis=1).astype(np.int32)
        return {"input_ids": ids, "input_mask": mask, "segment_ids": mask}


def unpadded(count):
    return without_padding(Records(LongAndShort(count)))


@pytest.mark.parametrize(("count", "rows", "epochs"), [(37, 6, 3), (5, 8, 3), (1000, 7, 2)])
def test_updates_of_similar_lengths_take_each_record_once_an_epoch(count, rows, epochs):
    batches = training_batches(unpadded(count), rows=rows, group=rows, seed=7, end=count * epochs)
    flat = [number for batch in taken(batches) for number in batch]
    for epoch in range(epochs):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert epochs == 1 or flat[:count] != flat[count : 2 * count]


def test_batches_are_cut_to_few_widths_that_waste_little():
    records = unpadded(3000)
    assert records.widths.tolist() == [24, 48, 72, 104]  # quarters of 1 to 97, in whole eights
    batches = list(training_batches(records, rows=8, group=8, seed=7, end=6000))
    assert {batch["input_ids"].shape[1] for batch in batches} == {24, 48, 72, 101}  # a width ends at the records' own
    lost = sum(records.lengths[batch["input_ids"][:, 0]].sum() - batch["input_mask"].sum() for batch in batches)
    assert lost == 0
    assert 1 - sum(b["input_mask"].sum() for b in batches) / sum(b["input_mask"].size for b in batches) < 0.25
    first, second = (np.array([b["input_ids"].shape[1] for b in half]) for half in (batches[:375], batches[375:]))
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.2  # short and long updates come at random
    assert (first != second).any()


def test_restarts_and_ranks_do_not_change_the_order_by_lengths():
    def batches(**options):
        return list(training_batches(unpadded(700), rows=6, group=6, seed=7, end=1400, **options))

    whole = batches()
    for batch, again in zip(batches(start=600), whole[100:], strict=True):
        np.testing.assert_array_equal(batch["input_ids"], again["input_ids"])
    for parts in zip(whole, batches(rank_slice=RankSlice(0, 2)), batches(rank_slice=RankSlice(1, 2)), strict=True):
        np.testing.assert_array_equal(parts[0]["input_ids"], np.concatenate([p["input_ids"] for p in parts[1:]]))


@pytest.mark.parametrize("world_size", [1, 2])
def test_evaluation_begins_with_the_longest_records(world_size):
    records = unpadded(37)
    ranks = [
        list(evaluation_batches(records, rows=6, rank_slice=RankSlice(rank, world_size))) for rank in range(world_size)
    ]
    widths = [[batch["input_ids"].shape[1] for batch in batches] for batches in ranks]
    assert widths[0] == widths[-1] == sorted(widths[0], reverse=True)
    numbers = [n for update in zip(*map(taken, ranks), strict=True) for part in update for n in part]
    assert numbers == evaluation_order(records).tolist() and sorted(numbers) == list(range(37))


def test_lengths_come_from_the_source_or_from_the_records():
    source = LongAndShort(9000)
    scanned = without_padding(Records(source, first=100, count=8500)).lengths
    assert scanned.tolist() == source.tokens[100:8600].tolist()
    source.lengths = np.full(9000, 99)
    assert without_padding(Records(source, first=100, count=8500)).lengths.tolist() == [99] * 8500


def test_filling_rows_weigh_nothing():
    (batch,) = evaluation_batches(Records(NumberedRecords(3)), rows=5)
    assert batch["example_weights"].tolist() == [1, 1, 1, 0, 0]
    assert batch["masked_lm_weights"].sum(axis=1).tolist() == [3, 3, 3, 0, 0]


def test_a_span_of_records():
    records = Records(NumberedRecords(37), first=30, count=4)
    assert taken(evaluation_batches(records, rows=4)) == [[30, 31, 32, 33]]


def test_values_out_of_range_name_the_record():
    records = Records(NumberedRecords(37), below={"input_ids": 30})
    with pytest.raises(UserError, match=r"part-0: record 30: input_ids has the value 30, but must be .* below 30"):
        list(evaluation_batches(records, rows=4))
