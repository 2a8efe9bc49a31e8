"""Spans and n-grams against the published rules: lengths, whole words, fates, and the changing rate."""

import itertools

import numpy as np
import pytest

from data.reading.chunks import Chunks
from data.reading.dynamic_masking import DynamicMasking
from data.reading.masking import Masking

PAD, CLS, SEP, MASK, V, S, P = 0, 2, 3, 4, 43, 101, 30
PIECES = np.arange(V) >= 37


def drawer(chunks, *, probability=0.15, predictions=P, whole_words=False, **settings):
    masking = Masking(predictions, probability, MASK, V, PIECES if whole_words else None)
    return DynamicMasking(masking, (PAD, CLS, SEP), 5, chunks=chunks, **settings)


def records(count):
    """[CLS] A [SEP] B [SEP] of random tokens."""
    ids = np.random.default_rng(1).integers(5, V, (count, S))
    ids[:, [0, 40, S - 1]] = CLS, SEP, SEP
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": np.ones((count, S), np.int32),
        "segment_ids": np.zeros((count, S), np.int32),
    }


def chosen(masked):
    """[R, S]: the tokens that are predicted."""
    flags = np.zeros((len(masked["input_ids"]), S), bool)
    rows, numbers = np.nonzero(masked["masked_lm_weights"])
    flags[rows, masked["masked_lm_positions"][rows, numbers]] = True
    return flags


def run_lengths(row):
    return [len(list(group)) for flag, group in itertools.groupby(row) if flag]


def test_lengths_have_the_published_probabilities():
    spans, ngrams = Chunks.spans(), Chunks.ngrams()
    assert (spans.shares * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)  # SpanBERT, section 3.1
    np.testing.assert_allclose(spans.shares[1:] / spans.shares[:-1], 0.8)
    np.testing.assert_allclose(ngrams.shares, np.array([6, 3, 2]) / 11)


@pytest.mark.parametrize("chunks", [Chunks.spans(), Chunks.ngrams(), Chunks(np.array([0.0, 0.0, 1.0]), False)])
def test_the_wanted_number_is_masked_and_never_a_special_token(chunks):
    batch = records(300)
    masked = drawer(chunks)(batch, np.arange(300))
    flags = chosen(masked)
    assert (flags.sum(axis=1) == 15).all()
    assert not flags[:, [0, 40, S - 1]].any()
    assert 0.13 < flags[:, 1:40].mean() < 0.18 and 0.13 < flags[:, 41:100].mean() < 0.18


def test_first_chunks_have_the_lengths_that_are_drawn():
    readings = 6000
    batch = {name: np.repeat(array, readings, axis=0) for name, array in records(1).items()}
    # One chunk is wanted at a time: longer ones are cut at ten tokens.
    masked = drawer(Chunks.spans(), probability=10.5 / S, predictions=10)(batch, np.arange(readings))
    lengths = np.array([max(run_lengths(row)) for row in chosen(masked)])
    assert lengths.max() == 10 and lengths.mean() > 5
    single = drawer(Chunks(np.array([1.0]), False))(batch, np.arange(readings))
    assert np.mean([np.mean(run_lengths(row)) for row in chosen(single)[:500]]) < 1.4


def test_words_stay_whole():
    batch = records(200)
    flags = chosen(drawer(Chunks.spans(), whole_words=True)(batch, np.arange(200)))
    ids = batch["input_ids"]
    special = np.isin(ids, (CLS, SEP))
    joined = PIECES[ids[:, 1:]] & ~special[:, 1:] & ~special[:, :-1]  # a piece and the token before it
    np.testing.assert_array_equal(flags[:, 1:][joined], flags[:, :-1][joined])
    assert flags.sum(axis=1).max() <= 15 and flags.sum(axis=1).mean() > 14


def test_a_span_has_one_fate_and_an_n_gram_has_several():
    batch = records(400)
    shares = {}
    for name, chunks in (("span", Chunks.spans()), ("ngram", Chunks.ngrams())):
        masked = drawer(chunks)(batch, np.arange(400))
        flags, is_mask = chosen(masked), masked["input_ids"] == MASK
        assert abs(is_mask[flags].mean() - 0.8) < 0.04
        both = flags[:, 1:] & flags[:, :-1]
        shares[name] = (is_mask[:, 1:] == is_mask[:, :-1])[both].mean()
    assert shares["span"] > 0.9 and shares["ngram"] < 0.75


def test_draws_do_not_depend_on_the_other_records():
    batch, positions = records(12), np.arange(100, 112)
    made = drawer(Chunks.spans())
    whole = made(batch, positions)
    for part in (slice(0, 5), slice(5, 12)):
        alone = made({name: array[part] for name, array in batch.items()}, positions[part])
        for name, array in alone.items():
            np.testing.assert_array_equal(array, whole[name][part])


def test_a_record_without_words_keeps_its_tokens():
    batch = {name: array[:, :3].copy() for name, array in records(2).items()}
    batch["input_ids"][:] = CLS, SEP, SEP
    masked = drawer(Chunks.spans())(batch, np.arange(2))
    assert not masked["masked_lm_weights"].any()


def test_the_rate_changes_linearly_over_the_run():
    batch = records(5)
    made = drawer(Chunks.spans(), probability=0.3, last_prob=0.1, run_records=1000)
    counts = made(batch, np.array([0, 250, 500, 1000, 2000]))["masked_lm_weights"].sum(axis=1)
    assert counts.tolist() == [30, 25, 20, 10, 10]
    plain = drawer(None, probability=0.3, last_prob=0.1, run_records=1000)
    assert plain(batch, np.full(5, 500))["masked_lm_weights"].sum(axis=1).tolist() == [20] * 5
