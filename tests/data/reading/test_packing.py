"""Packed batches: every token once, with its segment, position and record."""

import numpy as np

from data.reading.loader import Records, evaluation_batches, training_batches
from data.reading.packing import group_size, group_sizes, pack
from tests.conftest import pretraining_arrays


def test_groups_hold_the_tokens_of_their_records_one_behind_the_other():
    batch = pretraining_arrays(6, seed=1)
    packed = pack(batch, rows=3, size=37)
    assert packed["packed_tokens"].shape == (2, 4, 37)
    for group in range(2):
        ids, segments, positions, numbers = packed["packed_tokens"][group]
        rows = range(3 * group, 3 * group + 3)
        masks = [batch["input_mask"][row] == 1 for row in rows]
        tokens = sum(mask.sum() for mask in masks)
        for values, name in ((ids, "input_ids"), (segments, "segment_ids")):
            expected = np.concatenate([batch[name][row][mask] for row, mask in zip(rows, masks, strict=True)])
            assert values[:tokens].tolist() == expected.tolist()
            assert not values[tokens:].any()
        assert positions[:tokens].tolist() == [i for mask in masks for i in np.flatnonzero(mask)]
        assert numbers[:tokens].tolist() == [n for n, mask in enumerate(masks, 1) for _ in range(mask.sum())]
        assert not numbers[tokens:].any()
        for row, mask in zip(rows, masks, strict=True):
            assert ids[packed["packed_places"][row][mask]].tolist() == batch["input_ids"][row][mask].tolist()
            assert not packed["packed_places"][row][~mask].any()


def test_sizes_are_few_fit_every_group_and_waste_little():
    lengths = np.random.default_rng(0).integers(5, 129, 5000)
    sizes = group_sizes(lengths, 8, seed=0)
    assert len(sizes) <= 9
    assert sizes[-1] == 8 * 128
    totals = lengths[: 8 * 600].reshape(-1, 8).sum(axis=1)
    chosen = np.array([group_size(sizes, lengths[8 * i : 8 * i + 8], 8) for i in range(600)])
    assert (chosen >= totals).all()
    assert totals.sum() / chosen.sum() > 0.9
    assert group_size(sizes, np.array([5] * 8 + [128] * 8), 8) == sizes[-1]  # the fullest group decides


class Source:
    """Pretraining records in memory."""

    def __init__(self, count):
        self.arrays = pretraining_arrays(count, seed=2)
        self.lengths = self.arrays["input_mask"].sum(axis=1)

    def __len__(self):
        return len(self.lengths)

    def read(self, indices):
        return {name: array[indices] for name, array in self.arrays.items()}

    def location(self, index):
        return f"record {index}"


def test_batches_are_those_of_full_padding_and_hold_no_more_tokens_than_fit():
    source = Source(23)
    whole, packed = Records(source), Records(source, lengths=source.lengths, packs=True)
    for options in ({"rows": 12, "seed": 3, "end": 46}, {"rows": 4, "seed": 3, "start": 8, "end": 23}):
        batches = zip(
            training_batches(whole, **options), training_batches(packed, micro_rows=2, **options), strict=True
        )
        for padded, batch in batches:
            assert all(np.array_equal(padded[name], batch[name]) for name in padded)
            assert len(batch["packed_tokens"]) == options["rows"] // 2
    for padded, batch in zip(evaluation_batches(whole, rows=5), evaluation_batches(packed, rows=5), strict=True):
        assert all(np.array_equal(padded[name], batch[name]) for name in padded)
        assert (batch["packed_tokens"][0, 3] > 0).sum() == padded["input_mask"].sum()
