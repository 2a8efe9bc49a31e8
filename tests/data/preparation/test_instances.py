"""Pairs against Google's algorithm: whole records that can be traced back, and distributions side by side."""

import os
import random
import resource
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.google_pretraining_data import pairs_of_document, truncate
from data.preparation.instances import Cutting, draw_rows, truncated_lengths
from data.preparation.token_store import Corpus, TokenStore, write_piece
from data.tokenization import BulkTokenizer, build_tokenizer
from tests.data.corpus import VOCAB, documents

S = 37
TEXTS = documents(29)
TOKENS = [[build_tokenizer(VOCAB).encode(sentence).ids for sentence in document] for document in TEXTS]


@pytest.fixture
def store(tmp_path):
    """The corpus in three pieces of different size."""
    parts = [TEXTS[:11], TEXTS[11:13], TEXTS[13:]]
    sizes = [
        write_piece(tmp_path / f"tokens-{i}", part, BulkTokenizer(VOCAB, True), len(VOCAB), VOCAB["[UNK]"])
        for i, part in enumerate(parts)
    ]
    corpus = Corpus(
        files=("tokens-0", "tokens-1", "tokens-2"),
        token_bytes=2,
        tokens=tuple(size["tokens"] for size in sizes),
        sentences=tuple(size["sentences"] for size in sizes),
        documents=np.cumsum([0, *(size["documents"] for size in sizes)]),
    )
    return TokenStore(tmp_path, corpus)


def cutting(objective, short_seq_prob=0.1, **settings):
    return Cutting(objective, S, short_seq_prob, cls_id=2, sep_id=3, **settings)


def draw(store, seed, piece, short_seq_prob=0.1, objective="nsp"):
    return draw_rows(np.random.default_rng(seed), store, piece, cutting(objective, short_seq_prob))


def segments(rows):
    for ids, (a, b), label in zip(rows.input_ids.tolist(), rows.lengths.tolist(), rows.labels.tolist(), strict=True):
        yield ids, ids[1 : a + 1], ids[a + 2 : a + b + 2], label


def test_the_store_gives_back_every_document(store):
    found = []
    for number in range(3):
        piece = store.piece(number)
        for first, last in pairwise(piece.document_starts.tolist()):
            borders = piece.sentence_starts[first : last + 1]
            found.append([piece.tokens[i:j].tolist() for i, j in pairwise(borders.tolist())])
    assert found == TOKENS


def test_sentence_runs_are_runs_of_whole_sentences(store):
    rng = np.random.default_rng(0)
    documents, places, lengths = rng.integers(29, size=500), rng.random(500), rng.integers(-3, 60, 500)
    pieces, begin, end = store.sentence_runs(documents, places, lengths)
    texts = store.texts(pieces, begin, end - begin)
    for document, position, length, text in zip(documents, places, lengths, texts, strict=True):
        expected = []
        for sentence in TOKENS[document][int(position * len(TOKENS[document])) :]:
            expected += sentence
            if len(expected) >= length:
                break
        assert np.frombuffer(text, np.uint16).tolist() == expected


def test_every_segment_is_a_run_of_one_document(store):
    flat = [" ".join(map(str, [token for sentence in document for token in sentence])) for document in TOKENS]
    for number, mine in enumerate((range(11), range(11, 13), range(13, 29))):
        for ids, a, b, label in segments(draw(store, 1, number)):
            assert ids[0] == 2
            assert ids[len(a) + 1] == ids[len(a) + len(b) + 2] == 3
            assert not any(ids[len(a) + len(b) + 3 :])
            assert a
            assert b
            text_a, text_b = (" ".join(map(str, part)) for part in (a, b))
            owners = [i for i in mine if text_a in flat[i]]
            assert owners
            assert any(text_b in text for text in flat)
            if not label and len(a) + len(b) < S - 3:  # nothing was cut: B follows A at once
                assert any(f"{text_a} {text_b}" in flat[i] for i in owners)


def test_every_token_is_used_where_nothing_is_cut(store):
    """Sentences that B did not use come next, so that all tokens appear as A or as B."""
    rows = draw(store, 3, 0, short_seq_prob=0)
    seen = []
    for _, a, b, label in segments(rows):
        seen += a if label else a + b
    complete = [token for document in TOKENS[:11] for sentence in document for token in sentence]
    truncated = (rows.lengths.sum(1) == S - 3).sum()
    assert len(complete) - len(seen) <= truncated * 12


def test_distributions_are_those_of_googles_code(store):
    rng = random.Random(1)
    theirs, ours = [], []
    words = [[[str(t) for t in sentence] for sentence in document] for document in TOKENS]
    for repeat in range(60):
        pairs = [pair for index in range(29) for pair in pairs_of_document(words, index, S, 0.1, rng)]
        theirs.append(statistics([(s.count(0) - 2, s.count(1) - 1, int(r)) for _, s, r in pairs]))
        rows = [draw(store, [repeat, number], number) for number in range(3)]
        ours.append(
            statistics([(*lengths, label) for r in rows for lengths, label in zip(r.lengths, r.labels, strict=True)])
        )
    theirs, ours = np.array(theirs), np.array(ours)
    error = np.sqrt((theirs.var(0) + ours.var(0)) / 60) + 1e-9
    assert (np.abs(theirs.mean(0) - ours.mean(0)) / error).max() < 4.5


def statistics(rows):
    """Records, labels, lengths, and how they go together."""
    a, b, label = np.array(rows, float).T
    return [len(a), label.mean(), a.mean(), b.mean(), (a * a).mean(), (b * b).mean(), (a + b == S - 3).mean(),
            (a * label).mean(), (b * label).mean(), (a < 4).mean(), (b < 4).mean()]  # fmt: skip


class Counting:
    """Stands in for a tokenizer: a sentence says how many tokens it has, and no two tokens are equal."""

    def __init__(self):
        self.next = 10

    def encode(self, sentences):
        counts = np.array([int(sentence) for sentence in sentences])
        ids = np.arange(self.next, self.next + counts.sum())
        self.next += counts.sum()
        return ids, counts


def counted_store(tmp_path, documents):
    sizes = write_piece(tmp_path / "counted", documents, Counting(), 1 << 16, 1)
    return TokenStore(
        tmp_path, Corpus(("counted",), 2, (sizes["tokens"],), (sizes["sentences"],), np.array([0, sizes["documents"]]))
    )


def test_half_of_the_pairs_that_could_follow_do_and_what_is_too_long_loses_both_ends_alike(tmp_path):
    draws, lengths = 3000, (30, 40)
    store = counted_store(tmp_path, [["30", "40"]] * 2)
    rows = draw_rows(np.random.default_rng(1), store, 0, cutting("nsp", 0.0), times=draws)
    # A document gives a pair that follows; or, as often, one negative for each of its sentences.
    follow = rows.labels == 0
    assert (~follow).sum() == 2 * (2 * draws - follow.sum())
    assert abs(follow.sum() - draws) < 4.5 * np.sqrt(2 * draws / 4)
    ids, sizes = rows.input_ids[follow].astype(int), rows.lengths[follow]
    assert (sizes == [17, 17]).all()
    for first_token, length, position in ((10, lengths[0], 1), (10 + lengths[0], lengths[1], 2 + 17)):
        front = (ids[:, position] - first_token) % sum(lengths)
        cut = length - 17  # each of these tokens went at the front with probability 1/2
        assert abs(front.mean() - cut / 2) < 4.5 * np.sqrt(cut / 4 / len(front))
        assert abs(front.var() - cut / 4) < 4.5 * (cut / 4) * np.sqrt(2 / len(front))


def test_short_records_are_as_many_and_as_short_as_asked_for(tmp_path):
    draws, longest = 4000, S - 2
    store = counted_store(tmp_path, [["1"] * 200])
    rows = draw_rows(np.random.default_rng(1), store, 0, cutting("none", 0.3), times=draws)
    targets = rows.lengths[rows.input_ids[:, 1] == 10, 0]  # of each draw's first record
    assert len(targets) == draws
    short = targets[targets < longest]
    share = 0.3 * (1 - 1 / (longest - 1))  # the shorter length is drawn from 2 up to the longest
    assert abs(len(short) / draws - share) < 4.5 * np.sqrt(share * (1 - share) / draws)
    counts, expected = np.bincount(short, minlength=longest)[2:], len(short) / (longest - 2)
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_half_of_the_sentence_order_pairs_are_swapped(store):
    labels = np.concatenate([draw(store, seed, 0, objective="sop").labels for seed in range(100)])
    assert abs(labels.mean() - 0.5) < 4.5 * np.sqrt(0.25 / len(labels))


def test_negatives_come_from_all_documents_alike(store, monkeypatch):
    drawn = []
    run = store.sentence_runs
    monkeypatch.setattr(
        store, "sentence_runs", lambda documents, *rest: drawn.extend(documents) or run(documents, *rest)
    )
    for seed in range(300):
        draw(store, seed, 2, short_seq_prob=0)
    counts = np.bincount(drawn, minlength=29)
    mine, others = counts[13:], counts[:13]
    expected = others.mean()
    assert np.abs(others - expected).max() < 4.5 * np.sqrt(expected)
    assert (mine < expected + 4.5 * np.sqrt(expected)).all()  # a document is never its own negative


def test_one_segment_without_a_second_task(store):
    rows = draw(store, 1, 0, objective="none")
    assert not rows.labels.any()
    assert not rows.lengths[:, 1].any()
    for ids, (a, _) in zip(rows.input_ids.tolist(), rows.lengths.tolist(), strict=True):
        assert (ids[0], ids[a + 1]) == (2, 3)
        assert 3 not in ids[1 : a + 1]
        assert not any(ids[a + 2 :])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 60))
def test_truncation_is_googles_loop(a, b, longest):
    tokens_a, tokens_b = list(range(a)), list(range(b))
    truncate(tokens_a, tokens_b, longest, random.Random(0))
    cut = truncated_lengths(np.array([a]), np.array([b]), longest)
    assert [int(part[0]) for part in cut] == [len(tokens_a), len(tokens_b)]


def test_chunks_are_full_and_cover_the_joined_documents(store):
    rows = draw_rows(np.random.default_rng(1), store, 1, cutting("none", packing="chunks"))
    tokens = store.piece(1).tokens.tolist()
    joined = rows.input_ids[:, 1:-1].ravel().tolist()
    first = next(start for start in range(S) if tokens[start : start + len(joined)] == joined)
    assert len(rows.labels) and len(tokens) - first - len(joined) < S - 2
    assert (rows.input_ids[:, 0] == 2).all() and (rows.input_ids[:, -1] == 3).all()


@pytest.mark.parametrize("swap", [True, False])
def test_sentence_order_pairs_are_neighbours(store, swap):
    rows = draw_rows(np.random.default_rng(1), store, 0, cutting("sop", swap=swap))
    assert set(rows.labels.tolist()) == ({0, 1} if swap else {0})
    text = " ".join(map(str, store.piece(0).tokens.tolist()))
    whole = 0
    for _, a, b, label in segments(rows):
        assert a and b
        if len(a) + len(b) < S - 3:  # nothing was cut off
            first, second = (b, a) if label else (a, b)
            assert " ".join(map(str, first + second)) in text
            whole += 1
    assert whole


def test_few_of_many_pieces_are_open_at_a_time(tmp_path):
    texts = [f"{number}" for number in range(1, 300)]
    for text in texts:
        write_piece(tmp_path / text, [[text]], Counting(), 1 << 16, 1)
    numbers = np.arange(len(texts))
    store = TokenStore(
        tmp_path, Corpus(tuple(texts), 2, tuple(numbers + 1), (1,) * len(texts), np.append(numbers, 299))
    )
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 150, most))
    try:
        pieces, begin, end = store.sentence_runs(numbers, np.zeros(len(texts)), np.ones(len(texts)))
        assert [len(text) for text in store.texts(pieces, begin, end - begin)] == (2 * (numbers + 1)).tolist()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
