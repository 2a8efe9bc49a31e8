"""Features against an independent, loop by loop version of Google's converter; files that are not SQuAD."""

import json
import multiprocessing
import string

import numpy as np
import pytest

from benchmarks import google_squad_features as google
from benchmarks.google_tokenization import FullTokenizer
from configs.squad import FeatureFlags, SquadDataConfig
from data.datasets.squad import (
    FIRST_UNIQUE_ID,
    convert_examples_to_features,
    doc_spans,
    max_context,
    prepare,
    read_squad_examples,
)
from data.records.ofrecord import open_records
from data.text.tokenization import load_vocab
from utils.errors import UserError

S, STRIDE, QUERY = 31, 7, 5
CONTEXT = (
    'John Smith (1895\u20131943) was born in Paris.\tHis cat, \u00c9tienne\u00a0II,\u202fsaid:\n\n"No!"  Japanese '
    "electronics \u6f22\u5b57 are the largest \u200b in the world, 1895 too"
)


def question(context, text, number, impossible=None, start=None):
    answers = [] if impossible else [{"text": text, "answer_start": context.find(text) if start is None else start}]
    found = {"id": f"q{number}", "question": f"Where is number {number} of the {text}?"[:40], "answers": answers}
    return found if impossible is None else found | {"is_impossible": impossible}


def squad(tmp_path, *paragraphs, name="squad.json"):
    """A SQuAD file of (context, questions) paragraphs."""
    data = [{"paragraphs": [{"context": context, "qas": qas}]} for context, qas in paragraphs]
    (tmp_path / name).write_text(json.dumps({"data": data}))
    return str(tmp_path / name)


@pytest.fixture
def vocab_file(tmp_path):
    letters = string.ascii_lowercase + string.digits + string.punctuation + "\u2013\u6f22"
    pieces = ["john", "the", "##se", "japan", "1895", "cat", "##e", "smith", "world", "in"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *pieces]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
    return str(path)


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
    monkeypatch.setattr("data.datasets.squad._WORDS_PER_CHUNK", 3000)
    qas = [question(CONTEXT, "Paris", i) for i in range(700)]
    path = squad(tmp_path, (CONTEXT, qas), ("Paris in 1895", [question("Paris", "Paris", 800)]))
    assert assert_google(path, vocab_file, training=True, workers=3) > 3000


@pytest.mark.parametrize("moment", [1, 400])
def test_a_killed_worker_ends_the_work_with_one_sentence(tmp_path, vocab_file, monkeypatch, moment):
    monkeypatch.setattr("data.datasets.squad._WORDS_PER_CHUNK", 3000)
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", i) for i in range(900)]))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    features = convert_examples_to_features(examples, FeatureFlags(vocab_file, True, S, STRIDE, QUERY), num_workers=2)
    for _ in range(moment):
        next(features)
    for process in multiprocessing.active_children()[:1]:
        process.kill()
    with pytest.raises(UserError, match="worker process was lost"):
        list(features)
    assert not multiprocessing.active_children()


def test_each_token_has_its_best_window_once():
    for tokens, room, stride in [(0, 5, 3), (1, 5, 3), (5, 5, 3), (6, 5, 3), (37, 11, 2), (37, 7, 19), (900, 330, 128)]:
        spans = doc_spans(tokens, room, stride)
        best = np.zeros(tokens, int)
        for (start, length), chosen in zip(spans, max_context(spans), strict=True):
            best[start : start + length] += chosen
        assert (best == 1).all()


def config(path, output, vocab_file, **flags):
    lengths = {"max_seq_length": S, "doc_stride": STRIDE, "max_query_length": QUERY}
    of_features = {k: flags.pop(k) for k in ("version_2_with_negative", "do_lower_case") if k in flags}
    return SquadDataConfig(path, str(output), features=FeatureFlags(vocab_file, **lengths, **of_features), **flags)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_hold_the_features_in_order(tmp_path, vocab_file, shards, capsys):
    path = squad(
        tmp_path, (CONTEXT, [question(CONTEXT, text, i) for i, text in enumerate(["1895", "Paris", "cat", "No!"])])
    )
    for training in (False, True):
        output = tmp_path / f"out-{training}"
        prepare(config(path, output, vocab_file, is_training=training, num_shards=shards))
        records = open_records(output)
        assert len(records.shards) == shards
        got = records.read(np.arange(len(records)))
        examples = read_squad_examples(path, is_training=training, version_2_with_negative=False)
        features = list(convert_examples_to_features(examples, config(path, output, vocab_file).features))
        expected = [f.record(S) | {"unique_ids": [FIRST_UNIQUE_ID + i]} for i, f in enumerate(features)]
        assert sorted(got) == sorted(records.schema)
        assert ("unique_ids" in got) is not training
        for name, values in got.items():
            assert values.tolist() == [list(e[name]) for e in expected]
        assert records.metadata["objective"] == "squad" and records.metadata["do_lower_case"] is True
        assert not (output / ".work").exists()


def test_made_once(tmp_path, vocab_file, capsys):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    prepare(config(path, tmp_path / "out", vocab_file))
    before = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
    prepare(config(path, tmp_path / "out", vocab_file, num_workers=2))
    assert "complete already" in capsys.readouterr().out
    assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other flags or input"):
        prepare(config(path, tmp_path / "out", vocab_file, is_training=True))


def test_a_long_context_is_windows_like_any_other(tmp_path, vocab_file):
    context = "the cat " * 50_000 + "Paris"
    path = squad(tmp_path, (context, [question(context, "Paris", 0)]))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    features = list(convert_examples_to_features(examples, FeatureFlags(vocab_file)))
    assert len(features) == 780
    assert [f.doc_span_index for f in features if f.start_position] == [len(features) - 1]


def test_answers_not_at_their_offset(tmp_path, vocab_file, capsys):
    def qas():
        return [
            question(CONTEXT, "Paris", 0),
            question(CONTEXT, "Paris", 1, start=3),
            question(CONTEXT, "Berlin", 2, start=5),
            question(CONTEXT, "cat", 3, start=len(CONTEXT)),
            question(CONTEXT, "cat", 4, start=-2),
            question(CONTEXT, "", 5, start=0),
        ]

    path = squad(tmp_path, (CONTEXT, qas()))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    assert [example.qas_id for example in examples] == ["q0"]
    assert "5 of 6 questions" in capsys.readouterr().err
    assert len(read_squad_examples(path, is_training=False, version_2_with_negative=False)) == 6


def test_of_several_answers_the_one_that_stands_alone(tmp_path):
    context = "They won 20\u201318, the eighth time: 8 wins, or eight."

    def answered(*answers):
        texts = [
            {"text": text, "answer_start": context.index(text) if start is None else start} for text, start in answers
        ]
        path = squad(tmp_path, (context, [question(context, "won", 0) | {"answers": texts}]))
        (example,) = read_squad_examples(path, is_training=True, version_2_with_negative=False)
        return example.orig_answer_text, example.doc_tokens[example.start_position]

    assert answered(("8", None)) == ("8", "20\u201318,")
    assert answered(("8", None), ("eight", None)) == ("8", "20\u201318,")  # "eighth" is no better
    assert answered(("8", None), ("eight", context.rindex("eight"))) == ("eight", "eight.")
    assert answered(("8", None), ("eight", 2), ("8", context.rindex("8"))) == ("8", "8")
    assert answered(("They", None), ("eight", context.rindex("eight"))) == ("They", "They")


def test_an_empty_question_is_answered_but_not_learnt(tmp_path, capsys):
    empty = question(CONTEXT, "Paris", 0) | {"question": " "}
    path = squad(tmp_path, (CONTEXT, [empty, question(CONTEXT, "Paris", 1)]))
    assert len(read_squad_examples(path, is_training=False, version_2_with_negative=False)) == 2
    assert len(read_squad_examples(path, is_training=True, version_2_with_negative=False)) == 1
    assert "1 of 2 questions have no text" in capsys.readouterr().err


def test_bad_files_say_where(tmp_path):
    def read(path, training=False, v2=False):
        return read_squad_examples(path, is_training=training, version_2_with_negative=v2)

    good = question(CONTEXT, "Paris", 0)
    with pytest.raises(UserError, match="two questions have the id 'q0'"):
        read(squad(tmp_path, (CONTEXT, [good]), (CONTEXT, [good])))
    with pytest.raises(UserError, match="--version_2_with_negative True"):
        read(squad(tmp_path, (CONTEXT, [question(CONTEXT, "x", 1, impossible=True)])))
    with pytest.raises(UserError, match="'q0' has no answer"):
        read(squad(tmp_path, (CONTEXT, [good | {"answers": []}])), training=True)
    with pytest.raises(UserError, match="none of its 1 questions"):
        read(squad(tmp_path, (CONTEXT, [question(CONTEXT, "Rome", 0)])), training=True)
    with pytest.raises(UserError, match="holds no question"):
        read(squad(tmp_path))
    with pytest.raises(UserError, match=r"data\[0\]\.paragraphs\[0\]\.qas\[1\] has no 'question' that is a text"):
        read(squad(tmp_path, (CONTEXT, [good, {"id": "q1", "question": 5}])))
    with pytest.raises(UserError, match=r"qas\[0\]\.answers\[0\] has no 'answer_start' that is a whole number"):
        read(squad(tmp_path, (CONTEXT, [good | {"answers": [{"text": "Paris"}]}])))
    with pytest.raises(UserError, match="'question' is no text at character 3: a lone surrogate"):
        read(squad(tmp_path, (CONTEXT, [good | {"question": "Why\ud800?"}])))
    with pytest.raises(UserError, match="cannot be read"):
        read(str(tmp_path / "nothing.json"))
    (tmp_path / "text.json").write_text("Paris")
    with pytest.raises(UserError, match="is not JSON"):
        read(str(tmp_path / "text.json"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        read(str(tmp_path / "binary.json"))


def test_a_casing_that_does_not_fit_the_vocabulary_is_a_warning(tmp_path, vocab_file, capsys):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    prepare(config(path, tmp_path / "out", vocab_file, do_lower_case=False))
    assert capsys.readouterr().err.count("--do_lower_case False contradicts") == 1
    assert open_records(tmp_path / "out").metadata["do_lower_case"] is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_seq_length": 67, "max_query_length": 64}, "--max_seq_length 67"),
        ({"doc_stride": 0}, "--doc_stride"),
        ({"max_query_length": 0}, "--max_query_length"),
    ],
)
def test_lengths_that_leave_no_room(flags, words):
    with pytest.raises(UserError, match=words):
        FeatureFlags("vocab.txt", **flags)


def test_more_shards_than_questions(tmp_path, vocab_file):
    path = squad(tmp_path, (CONTEXT, [question(CONTEXT, "Paris", 0)]))
    with pytest.raises(UserError, match="--num_shards 2"):
        prepare(config(path, tmp_path / "out", vocab_file, num_shards=2))
