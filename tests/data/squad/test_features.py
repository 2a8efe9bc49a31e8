"""Features: window for window as Google's converter makes them."""

import multiprocessing

import numpy as np
import pytest

from benchmarks import google_squad_features as google
from benchmarks.google_tokenization import FullTokenizer
from configs.squad import FeatureFlags
from conversion.tokenizer_files import SPECIAL_TOKENS
from data.squad.examples import read_squad_examples
from data.squad.features import FIRST_UNIQUE_ID, convert_examples_to_features, doc_spans, max_context
from data.tokenization import load_vocab
from tests.data.squad_files import CONTEXT, QUERY, STRIDE, S, question, squad
from utils.errors import UserError


def assert_google(path, vocab_file, *, lower=True, training=False, v2=False, lengths=(S, STRIDE, QUERY), workers=1):
    flags = FeatureFlags(vocab_file, lower, *lengths, v2)
    examples = read_squad_examples(path, is_training=training, version_2_with_negative=v2)
    expected = google.read_examples(path, training, v2)
    assert [e.qas_id for e in examples] == [e.qas_id for e in expected]
    tokenizer = FullTokenizer(load_vocab(vocab_file), lower)
    theirs = google.convert(expected, tokenizer, *lengths, is_training=training)
    count = 0
    mine = convert_examples_to_features(examples, flags, num_workers=workers)
    for unique_id, (feature, reference) in enumerate(zip(mine, theirs, strict=True), FIRST_UNIQUE_ID):
        record = feature.record(lengths[0])
        window = range(feature.doc_offset, feature.doc_offset + len(feature.token_to_orig_map))
        assert unique_id == reference.unique_id
        assert (feature.example_index, feature.doc_span_index) == (reference.example_index, reference.doc_span_index)
        for name in ("input_ids", "input_mask", "segment_ids"):
            assert record[name].tolist() == getattr(reference, name)
        assert dict(zip(window, feature.token_to_orig_map.tolist(), strict=True)) == reference.token_to_orig_map
        assert dict(zip(window, feature.token_is_max_context.tolist(), strict=True)) == reference.token_is_max_context
        if training:
            positions = [*record["start_positions"].tolist(), *record["end_positions"].tolist()]
            assert positions == [reference.start_position, reference.end_position]
        count += 1
    return count


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_windows_and_answers_are_googles(tmp_path, vocab_file, lower, training):
    answers = [
        "John Smith",
        "1895",
        "Paris",
        "Japan",
        "\u00c9tienne",
        "No!",
        "\u5b57",
        "too",
        "1943) was",
        "in the world",
    ]
    long = " ".join(f"{CONTEXT} {i}" for i in range(3))
    path = squad(
        tmp_path,
        (CONTEXT, [question(CONTEXT, text, i) for i, text in enumerate(answers)]),
        (long, [question(long, text, 20 + i) for i, text in enumerate(answers)]),
        ("Paris", [question("Paris", "Paris", 40)]),
        (" \n", [] if training else [question(" ", "nothing", 41)]),
    )
    assert assert_google(path, vocab_file, lower=lower, training=training) > 60


@pytest.mark.parametrize("training", [True, False])
def test_version_2_windows_are_googles(tmp_path, vocab_file, training):
    qas = [question(CONTEXT, text, i, impossible=i % 2 == 1) for i, text in enumerate(["cat", "dog", "1895", "Rome"])]
    assert assert_google(squad(tmp_path, (CONTEXT, qas)), vocab_file, training=training, v2=True) > 8


@pytest.mark.parametrize("lengths", [(9, 1, 5), (17, 50, 3), (40, 13, 30), (24, 3, 2)])
def test_other_lengths_are_googles(tmp_path, vocab_file, lengths):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, text, i) for i, text in enumerate(["1895", "Paris"])]))
    assert assert_google(path, vocab_file, training=True, lengths=lengths)


def test_processes_change_nothing(tmp_path, vocab_file, monkeypatch):
    monkeypatch.setattr("data.squad.features._WORDS_PER_CHUNK", 3000)
    qas = [question(CONTEXT, "Paris", i) for i in range(700)]
    path = squad(tmp_path, (CONTEXT, qas), ("Paris in 1895", [question("Paris", "Paris", 800)]))
    assert assert_google(path, vocab_file, training=True, workers=3) > 3000


@pytest.mark.parametrize("moment", [1, 400])
def test_a_killed_worker_is_reported(tmp_path, vocab_file, monkeypatch, moment):
    monkeypatch.setattr("data.squad.features._WORDS_PER_CHUNK", 100)  # more chunks than are in flight
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", i) for i in range(900)]))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    features = convert_examples_to_features(examples, FeatureFlags(vocab_file, True, S, STRIDE, QUERY), num_workers=2)
    for _ in range(moment):
        next(features)
    for process in multiprocessing.active_children()[:1]:
        process.kill()
    with pytest.raises(UserError, match="worker process was killed"):
        list(features)
    assert not multiprocessing.active_children()


def test_each_token_has_its_best_window_once():
    for tokens, longest, stride in [
        (0, 5, 3),
        (1, 5, 3),
        (5, 5, 3),
        (6, 5, 3),
        (37, 11, 2),
        (37, 7, 19),
        (900, 330, 128),
    ]:
        spans = doc_spans(tokens, longest, stride)
        best = np.zeros(tokens, int)
        for (start, length), chosen in zip(spans, max_context(spans), strict=True):
            best[start : start + length] += chosen
        assert (best == 1).all()


def test_a_long_context(tmp_path, vocab_file):
    context = "the cat " * 50_000 + "Paris"
    path = squad(tmp_path, (context, [question(context, "Paris", 0)]))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    features = list(convert_examples_to_features(examples, FeatureFlags(vocab_file)))
    assert len(features) == 780
    assert [f.doc_span_index for f in features if f.start_position] == [len(features) - 1]


def test_in_text_without_spaces_the_answer_is_at_its_offset(tmp_path):
    context, answer = "北京是首都。北京很大。我爱北京人。", "北京"
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL_TOKENS, *sorted(set(context)), "who"]) + "\n", encoding="utf-8")
    starts = [i for i in range(len(context)) if context.startswith(answer, i)]
    asked = [{"id": str(i), "question": "who", "answers": [{"text": answer, "answer_start": i}]} for i in starts]
    path = squad(tmp_path, (context, asked), (f"a b {context}", [question(f"a b {context}", "北京人", 99)]))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    features = convert_examples_to_features(examples, FeatureFlags(str(vocab), False, 64, 32, QUERY))
    found = [(f.start_position - f.doc_offset, f.end_position - f.doc_offset) for f in features]
    assert found == [(start, start + 1) for start in (0, 6, 13)] + [(15, 17)]


def test_in_text_with_spaces_the_first_occurrence_counts(vocab_file, tmp_path):
    path = squad(tmp_path, ("in 8-8-8 we", [question("in 8-8-8 we", "8", 0, start=5)]))
    (feature,) = convert_examples_to_features(
        read_squad_examples(path, is_training=True, version_2_with_negative=False),
        FeatureFlags(vocab_file, True, S, STRIDE, QUERY),
    )
    assert feature.start_position - feature.doc_offset == 1  # as in Google's code
