"""Masks against Google's rules: exact where nothing is random, within confidence intervals where something is."""

import random

import numpy as np
import pytest

from benchmarks.google_pretraining_data import mask
from data.reading.masking import Masking, mask_tokens

V, S, P = 53, 37, 7
CONTINUES = np.zeros(V, bool)
CONTINUES[40:] = True
PLAIN = Masking(P, 0.15, 4, V)
WORDS = Masking(P, 0.15, 4, V, CONTINUES)


def batch(records, seed=1, longest=S):
    """[CLS] A [SEP] B [SEP] of random lengths; ids from 5 on."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, V, (records, S))
    length = rng.integers(5, longest + 1, records)
    a = np.array([rng.integers(1, n - 3) for n in length])
    position = np.arange(S)
    ids[position >= length[:, None]] = 0
    ids[:, 0] = 2
    ids[np.arange(records), a + 1] = ids[np.arange(records), length - 1] = 3
    candidates = (position < length[:, None]) & ~np.isin(ids, (2, 3))
    return ids, candidates, length


@pytest.mark.parametrize("masking", [PLAIN, WORDS])
def test_answers_restore_the_record_and_nothing_special_is_masked(masking):
    ids, candidates, lengths = batch(500)
    result = mask_tokens(np.random.default_rng(2), ids, candidates, lengths, masking)
    for row in range(500):
        used = result["masked_lm_weights"][row] > 0
        positions = result["masked_lm_positions"][row][used]
        assert candidates[row, positions].all()
        assert (np.diff(positions) > 0).all()
        assert not used[used.argmin() :].any() or used.all()
        restored = result["input_ids"][row].copy()
        restored[positions] = result["masked_lm_ids"][row][used]
        np.testing.assert_array_equal(restored, ids[row])
        assert (result["masked_lm_positions"][row][~used] == 0).all()
        assert (result["masked_lm_ids"][row][~used] == 0).all()


@pytest.mark.parametrize("prob", [0.0, 0.15, 0.5, 1.0])
def test_number_of_predictions(prob):
    ids, candidates, lengths = batch(300)
    masking = Masking(P, prob, 4, V)
    result = mask_tokens(np.random.default_rng(2), ids, candidates, lengths, masking)
    wanted = [min(P, max(1, round(int(n) * prob)), int(c.sum())) for n, c in zip(lengths, candidates, strict=True)]
    np.testing.assert_array_equal(result["masked_lm_weights"].sum(1), wanted)


def words_of(ids, candidates):
    """Words as Google's code groups them: a ## piece joins the last word."""
    words = []
    for position in np.flatnonzero(candidates):
        if words and CONTINUES[ids[position]]:
            words[-1].append(int(position))
        else:
            words.append([int(position)])
    return words


def test_whole_words_are_masked_together_as_long_as_they_fit():
    ids, candidates, lengths = batch(400)
    result = mask_tokens(np.random.default_rng(2), ids, candidates, lengths, WORDS)
    for row in range(400):
        chosen = set(result["masked_lm_positions"][row][result["masked_lm_weights"][row] > 0].tolist())
        wanted = min(P, max(1, round(int(lengths[row]) * 0.15)))
        assert len(chosen) <= wanted
        for word in words_of(ids[row], candidates[row]):
            assert chosen >= set(word) or not chosen & set(word)
            if not chosen & set(word):
                assert len(chosen) + len(word) > wanted


@pytest.mark.parametrize("masking", [PLAIN, WORDS])
def test_which_tokens_are_chosen_is_distributed_as_in_googles_code(masking):
    ids, candidates, lengths = batch(1, seed=4)
    many = 4000
    result = mask_tokens(
        np.random.default_rng(3), ids.repeat(many, 0), candidates.repeat(many, 0), lengths.repeat(many), masking
    )
    ours = np.zeros((many, S))
    rows, columns = np.nonzero(result["masked_lm_weights"])
    ours[rows, result["masked_lm_positions"][rows, columns]] = 1
    rng = random.Random(3)
    tokens = [{2: "[CLS]", 3: "[SEP]"}.get(i, f"##{i}" if CONTINUES[i] else str(i)) for i in ids[0, : lengths[0]]]
    theirs = np.zeros((many, S))
    for row in range(many):
        theirs[row, mask(tokens, 0.15, P, ["x"], rng, masking is WORDS)[1]] = 1
    error = np.sqrt((ours.var(0) + theirs.var(0)) / many) + 1e-9
    assert (np.abs(ours.mean(0) - theirs.mean(0)) / error).max() < 4.5


def test_eighty_ten_ten():
    ids, candidates, lengths = batch(9000)
    result = mask_tokens(np.random.default_rng(5), ids, candidates, lengths, PLAIN)
    rows, columns = np.nonzero(result["masked_lm_weights"])
    shown = result["input_ids"][rows, result["masked_lm_positions"][rows, columns]]
    answers = result["masked_lm_ids"][rows, columns]
    count = len(rows)
    for share, expected in (
        ((shown == 4).mean(), 0.8 + 0.1 / V),
        ((shown == answers).mean(), 0.1 + 0.1 / V),
        (((shown != answers) & (shown != 4)).mean(), 0.1 * (V - 2) / V),
    ):
        assert abs(share - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count)
    # Any entry of the vocabulary may come in, the special ones too.
    assert set(np.unique(shown[(shown != answers) & (shown != 4)])) == set(range(V)) - {4}


def test_the_same_generator_gives_the_same_masks():
    arguments = batch(30)
    first, second = (mask_tokens(np.random.default_rng(7), *arguments, WORDS) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
