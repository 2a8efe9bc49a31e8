"""Masks drawn at each reading: their rates, what they never touch, and that batches and restarts do not change them."""

import numpy as np
import pytest

from data.reading.dynamic_masking import DynamicMasking, swap_segments, unmasked
from data.reading.masking import Masking

PAD, CLS, SEP, MASK = 0, 2, 3, 4
V, S, P = 43, 31, 9
WORD_PIECES = np.arange(V) >= 30


def masking(probability=0.15, predictions=P, whole_words=False):
    return Masking(predictions, probability, MASK, V, WORD_PIECES if whole_words else None)


def drawer(seed=5, swaps=False, **settings):
    return DynamicMasking(masking(**settings), (PAD, CLS, SEP), seed, swaps)


def records(count, seed=0, length=None):
    """[CLS] A [SEP] B [SEP] of random tokens; `length` fixes the number of tokens."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros((count, S), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    for row in range(count):
        n = length or int(rng.integers(9, S + 1))
        a = int(rng.integers(1, n - 4))
        ids = rng.integers(5, V, n)
        ids[[0, a + 1, n - 1]] = CLS, SEP, SEP
        batch["input_ids"][row, :n] = ids
        batch["input_mask"][row, :n] = 1
        batch["segment_ids"][row, a + 2 : n] = 1
    return batch


def test_rates_over_many_readings():
    one = records(1, length=24)
    readings = 20000
    batch = {name: np.repeat(array, readings, axis=0) for name, array in one.items()}
    masked = drawer()(batch, np.arange(readings))
    wanted = int(0.15 * 24)  # 3 of 21 tokens that are not special
    assert (masked["masked_lm_weights"].sum(axis=1) == wanted).all()
    chosen = np.zeros((readings, S), bool)
    np.put_along_axis(chosen, masked["masked_lm_positions"][:, :wanted].astype(np.int64), True, axis=1)
    special = (one["input_mask"][0] == 0) | np.isin(one["input_ids"][0], (CLS, SEP))
    assert not chosen[:, special].any()
    rate = wanted / (~special).sum()
    margin = 5 * np.sqrt(rate * (1 - rate) / readings)
    np.testing.assert_allclose(chosen[:, ~special].mean(axis=0), rate, atol=margin)
    before, after = batch["input_ids"][chosen], masked["input_ids"][chosen]
    total = len(before)
    for share, holds in ((0.8, after == MASK), (0.1 + 0.1 / V, after == before)):
        assert abs(holds.mean() - share) < 5 * np.sqrt(share * (1 - share) / total)
    np.testing.assert_array_equal(masked["input_ids"][~chosen], batch["input_ids"][~chosen])


def test_answers_stand_at_their_positions():
    batch = records(50)
    masked = drawer()(batch, np.arange(50))
    rows, positions = np.nonzero(masked["masked_lm_weights"])
    answers = batch["input_ids"][rows, masked["masked_lm_positions"][rows, positions]]
    np.testing.assert_array_equal(masked["masked_lm_ids"][rows, positions], answers)
    counts = np.maximum(1, (batch["input_mask"].sum(axis=1) * 15) // 100)
    np.testing.assert_array_equal(masked["masked_lm_weights"].sum(axis=1), counts)


def test_draws_depend_only_on_seed_and_position():
    batch, positions = records(12), np.arange(100, 112)
    whole = drawer(swaps=True)(batch, positions)
    halves = [
        drawer(swaps=True)({name: array[half] for name, array in batch.items()}, positions[half])
        for half in (slice(0, 5), slice(5, 12))
    ]
    for name, array in whole.items():
        np.testing.assert_array_equal(array, np.concatenate([half[name] for half in halves]))
    for other in (drawer(seed=6, swaps=True)(batch, positions), drawer(swaps=True)(batch, positions + 12)):
        assert (other["masked_lm_positions"] != whole["masked_lm_positions"]).any(axis=1).sum() > 8


def test_masks_of_static_records_are_taken_out_first():
    batch = records(20)
    once = drawer()(batch, np.arange(20))
    np.testing.assert_array_equal(unmasked(once)["input_ids"], batch["input_ids"])
    twice = drawer(seed=8)(once, np.arange(20))
    direct = drawer(seed=8)(batch, np.arange(20))
    for name in direct:
        np.testing.assert_array_equal(twice[name], direct[name])


def test_whole_words_and_the_limit():
    batch = records(200, seed=3)
    masked = drawer(probability=0.4, predictions=5, whole_words=True)(batch, np.arange(200))
    counts = masked["masked_lm_weights"].sum(axis=1)
    assert counts.max() == 5
    for row in range(200):
        chosen = set(masked["masked_lm_positions"][row, : int(counts[row])].tolist())
        for position in chosen:
            following = position + 1
            is_piece = following < S and WORD_PIECES[batch["input_ids"][row, following]]
            if is_piece and batch["input_ids"][row, following] not in (CLS, SEP):
                assert following in chosen


def swapped_by_hand(ids, segments, mask):
    tokens = ids[mask == 1].tolist()
    b = int(segments[mask == 1].sum())
    first, second = tokens[1:-b], tokens[-b:]  # each with its [SEP]
    result = np.zeros_like(ids)
    result[: len(tokens)] = [tokens[0], *second, *first]
    segment = np.zeros_like(segments)
    segment[1 + len(second) : len(tokens)] = 1
    return result, segment


def test_swapping():
    batch = records(30, seed=9)
    swapped = np.arange(30) % 3 == 0
    result = swap_segments(batch, swapped)
    for row in range(30):
        ids, segments = batch["input_ids"][row], batch["segment_ids"][row]
        if swapped[row]:
            ids, segments = swapped_by_hand(ids, segments, batch["input_mask"][row])
        np.testing.assert_array_equal(result["input_ids"][row], ids)
        np.testing.assert_array_equal(result["segment_ids"][row], segments)


@pytest.mark.parametrize("readings", [4000])
def test_half_of_the_pairs_are_swapped(readings):
    batch = {name: np.repeat(array, readings, axis=0) for name, array in records(1, length=17).items()}
    drawn = drawer(swaps=True)(batch, np.arange(readings))
    labels = drawn["next_sentence_labels"][:, 0]
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / np.sqrt(readings)
    moved = (unmasked(drawn)["input_ids"] != batch["input_ids"]).any(axis=1)
    np.testing.assert_array_equal(moved, labels == 1)
