"""Finished records against the rules that make them: every word of the corpus is unique, so its origin is known.

Counts are held against the normal approximation of their distribution, 4.5 standard deviations to either side.
"""

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import PretrainingDataConfig
from conversion.tokenizer_files import SPECIAL_TOKENS
from data.ofrecord import open_records
from data.preparation.pretraining import prepare
from data.reading.dynamic_masking import unmasked

S, P, DOCUMENTS, DUPES = 61, 9, 150, 24
FIRST = len(SPECIAL_TOKENS)  # the id of the first word


def letters(number):
    return "".join(chr(97 + int(digit)) for digit in str(number))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories of records without and with whole-word masks, and where each token of the vocabulary is from."""
    directory = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(7)
    vocab, text, origin = list(SPECIAL_TOKENS), [], []
    for document in range(DOCUMENTS):
        sentences = int(rng.integers(2, 31))
        for sentence in range(sentences):
            size = int(rng.integers(1, 14))
            words = []
            for position in range(size):
                piece = position and rng.random() < 0.3  # continues the previous word
                name = letters(len(vocab)).rjust(6, "z")
                vocab.append(f"##{name}" if piece else name)
                words.append(name if piece else f" {name}")
                origin.append((document, sentence, sentences, position, size))
            text.append("".join(words).strip())
        text.append("")
    (directory / "text").write_text("\n".join(text))
    (directory / "vocab").write_text("\n".join(vocab) + "\n")
    for name, more in (("pieces", ()), ("words", ("--do_whole_word_mask",))):
        flags = ["--input_file", directory / "text", "--vocab_file", directory / "vocab", "--output_dir"]
        flags += [directory / name, "--max_seq_length", S, "--max_predictions_per_seq", P, "--dupe_factor", DUPES]
        flags += ["--short_seq_prob", 0, "--num_shards", 3, "--num_workers", 1, *more]
        prepare(parse(PretrainingDataConfig, list(map(str, flags))))
    return directory, vocab, np.array(origin)


def read(made, name="pieces"):
    records = open_records(made[0] / name)
    batch = records.read(np.arange(len(records)))
    return batch, unmasked(batch)["input_ids"]


def is_fair(hits, tries, share=0.5):
    assert tries > 500
    assert abs(hits - share * tries) < 4.5 * np.sqrt(share * (1 - share) * tries), (hits, tries, share)


@pytest.fixture(scope="module")
def pairs(made):
    """(label, [tokens, 5] origins of A, of B) of every record."""
    batch, ids = read(made)
    lengths, second = batch["input_mask"].sum(1), batch["segment_ids"].sum(1)
    result = []
    for row, length, b, label in zip(ids, lengths, second, batch["next_sentence_labels"][:, 0], strict=True):
        a = row[1 : length - b - 1], row[length - b : length - 1]
        result.append((label, *(made[2][part - FIRST] for part in a)))
    return result


def test_segments_are_runs_and_b_follows_a_or_is_from_another_document(pairs):
    assert len(pairs) > 10_000
    for label, a, b in pairs:
        for part in (a, b):
            assert len(set(part[:, 0])) == 1
            assert (np.diff(part[:, 1]) >= 0).all()
        assert (a[0, 0] != b[0, 0]) == label
        if not label:
            assert b[0, 1] >= a[-1, 1]


def test_half_of_the_chunks_of_several_sentences_follow(pairs):
    labels = np.array(
        [label for label, a, _ in pairs if a[0, 1] < a[0, 2] - 1]
    )  # without last sentences, which have no successor
    is_fair(labels.sum(), len(labels))
    assert all(label for label, a, _ in pairs if a[0, 1] == a[0, 2] - 1)


def test_negatives_come_from_every_document_and_begin_at_any_sentence(pairs):
    negatives = [(a, b) for label, a, b in pairs if label]
    counts = np.bincount([b[0, 0] for _, b in negatives], minlength=DOCUMENTS)
    # All documents but A's own, which 24 duplications of some documents make a little uneven.
    own = np.bincount([a[0, 0] for a, _ in negatives], minlength=DOCUMENTS)
    expected = (own.sum() - own) / (DOCUMENTS - 1)
    assert (((counts - expected) ** 2 / expected).sum() - DOCUMENTS) / np.sqrt(2 * DOCUMENTS) < 4.5
    # B begins at any sentence of its document alike: seen where it was not cut at the front.
    position = np.array([(b[0, 1] + 0.5) / b[0, 2] for _, b in negatives if b[0, 3] == 0 and b[0, 2] > 9])
    inside = position < 0.6  # later in a document, B can end with it, and less is cut off
    for low in np.arange(0, 0.6, 0.2):
        is_fair((position[inside] // 0.2 == low // 0.2).sum(), inside.sum(), 1 / 3)


def test_what_is_too_long_is_cut_at_both_ends_alike(pairs):
    """Of A: its first and its last sentence are alike, while B's last one is long where a record is full."""
    full = [a for _, a, b in pairs if len(a) + len(b) == S - 3]
    front = np.array([part[0, 3] > 0 for part in full])
    back = np.array([part[-1, 3] < part[-1, 4] - 1 for part in full])
    one_end = front != back
    is_fair(front[one_end].sum(), one_end.sum())


@pytest.mark.parametrize("name", ["pieces", "words"])
def test_masks(made, name):
    batch, ids = read(made, name)
    vocab = made[1]
    used = batch["masked_lm_weights"] > 0
    rows, columns = np.nonzero(used)
    positions, answers = batch["masked_lm_positions"][rows, columns], batch["masked_lm_ids"][rows, columns]
    shown = batch["input_ids"][rows, positions]
    assert (answers >= FIRST).all()  # no special token is predicted
    mask = SPECIAL_TOKENS.index("[MASK]")
    same = 0.1 + 0.1 / len(vocab)
    is_fair((shown == mask).sum(), len(shown), 0.8 + 0.1 / len(vocab))
    is_fair((shown == answers).sum(), len(shown), same)
    others = shown[(shown != mask) & (shown != answers)]
    # Random tokens are any of the vocabulary's, alike in each tenth of it.
    tenths = np.bincount(others * 10 // len(vocab), minlength=10)
    for hits in tenths:
        is_fair(hits, len(others), 0.1)
    untouched = batch["input_ids"] == ids
    untouched[rows, positions] = True
    assert untouched.all()

    lengths = batch["input_mask"].sum(1)
    wanted = np.minimum(P, np.maximum(1, np.rint(lengths * 0.15)))
    if name == "pieces":
        assert (used.sum(1) == wanted).all()
        # Any token of a record is as likely as any other: the first of full records as the last.
        full = (lengths == S).nonzero()[0]
        chosen = np.zeros(ids.shape, bool)
        chosen[rows, positions] = True
        candidates = (ids >= FIRST)[full]
        rate = wanted[full][0] / (S - 3)
        for column in range(1, S - 1):
            here = candidates[:, column]
            is_fair(chosen[full][here, column].sum(), here.sum(), rate)
        return
    assert (used.sum(1) <= wanted).all()
    chosen = np.zeros(ids.shape, bool)
    chosen[rows, positions] = True
    continues = np.array([token.startswith("##") for token in vocab])[ids]
    inside = continues[:, 1:] & (ids[:, :-1] >= FIRST)  # a piece and the one before it: both or none
    assert (chosen[:, 1:] == chosen[:, :-1])[inside].all()
    assert inside.sum() > 10_000 and chosen[:, 1:][inside].any()
