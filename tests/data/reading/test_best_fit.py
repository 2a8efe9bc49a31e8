"""Packed rows: every record in one row, rows that are almost full, and batches that use each record once per epoch."""

import numpy as np
import pytest

from data.reading.loader import RankSlice, Records, in_packed_rows, training_batches, without_padding
from data.reading.packing import best_fit
from tests.data.reading.test_packing import Source

RANDOM = np.random.default_rng(0)
LENGTHS = {
    "wikipedia": (np.where(RANDOM.random(9000) < 0.8, 128, RANDOM.integers(5, 129, 9000)), 8 * 128),
    "squad": (np.clip(RANDOM.gamma(6, 30, 9000), 25, 384).astype(int), 8 * 384),
}


@pytest.mark.parametrize(("lengths", "tokens"), LENGTHS.values(), ids=LENGTHS)
def test_rows_are_full_and_hold_each_record_once(lengths, tokens):
    rows = best_fit(lengths, tokens, seed=3)
    used = rows.records >= 0
    assert np.sort(rows.records[used]).tolist() == list(range(9000))
    assert (np.where(used, lengths[rows.records], 0).sum(axis=1) <= tokens).all()
    assert rows.fill == lengths.sum() / (len(rows) * tokens) > 0.98
    assert used[:, 0].all()
    assert (np.diff(used.astype(int), axis=1) <= 0).all()  # empty places only follow records
    assert rows.records.shape[1] < 1.3 * 9000 / len(rows)


def test_the_longest_record_fits_alone():
    assert best_fit(np.array([37, 37, 37]), 37, seed=0).records.shape == (3, 1)


def packed_records(count=23, tokens=29):
    return in_packed_rows(without_padding(Records(Source(count))), tokens, seed=3)


def keys(batches):
    return [[row.tobytes() for row in b["input_ids"][b["example_weights"] > 0]] for b in batches]


def test_an_epoch_uses_each_record_once_and_a_restart_continues_it():
    records = packed_records()
    rows = records.epoch_rows
    assert 5 < rows < 23
    options = {"rows": 4, "micro_rows": 2, "seed": 3, "end": 2 * rows}
    batches = list(training_batches(records, **options))
    used = sorted(key for batch in keys(batches) for key in batch)
    assert used == sorted(2 * keys([Source(23).arrays | {"example_weights": np.ones(23)}])[0])
    assert len({batch["packed_tokens"].shape for batch in batches}) == 1
    assert keys(training_batches(records, start=4, **options)) == keys(batches)[1:]


def test_empty_places_have_no_tokens_and_no_weight():
    records = packed_records()
    for batch in training_batches(records, rows=4, seed=3, end=records.epoch_rows):
        empty = batch["input_mask"].sum(axis=1) == 0
        assert not batch["masked_lm_weights"][empty].any()
        assert not batch["example_weights"][empty].any()
        assert (batch["packed_tokens"][:, 3] > 0).sum() == batch["input_mask"].sum()


def test_ranks_share_the_rows_of_each_micro_batch():
    records, options = packed_records(), {"rows": 4, "micro_rows": 2, "seed": 3, "end": 8}
    whole = list(training_batches(records, **options))
    parts = [list(training_batches(records, rank_slice=RankSlice(rank, 2), **options)) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        for rank in (0, 1):
            assert np.array_equal(parts[rank][number]["packed_tokens"], batch["packed_tokens"][rank::2])


def test_random_choices_differ_between_epochs():
    seen = {}

    def transform(batch, positions):
        for key, position in zip(map(bytes, batch["input_ids"]), positions.tolist(), strict=True):
            seen.setdefault(key, set()).add(position)
        return batch

    records = in_packed_rows(without_padding(Records(Source(23), transform=transform)), 29, seed=3)
    list(training_batches(records, rows=1, seed=3, end=2 * records.epoch_rows))
    assert sorted(position for positions in seen.values() for position in positions) == list(range(46))
