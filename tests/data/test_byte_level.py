"""Byte-level tokenizers are used as they are: texts, words and answers become the library's own tokens."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from configs.squad import DecodingFlags, FeatureFlags
from conversion.tokenizer_files import read_vocabulary
from data.classification import TextExamples, TextRecords
from data.squad import SquadExample, convert_examples_to_features
from data.tokenization import bulk_tokenizer, tokenizer_of
from evaluation.squad_decoding import decode_predictions
from tests.byte_level import NAMES, TEXT, write_tokenizer
from utils.errors import UserError

KINDS = tuple(NAMES)
QUESTION = "Where does Anna live?"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(tmp_path, kind):
    return write_tokenizer(tmp_path, kind)


@pytest.fixture
def vocabulary(tmp_path, tokenizer):
    return read_vocabulary(tmp_path)


def test_the_vocabulary_has_the_files_tokens_and_berts_names_of_the_special_ones(vocabulary, tokenizer, kind):
    cls, sep, pad, unk, mask = (tokenizer.token_to_id(token) for token in NAMES[kind])
    found = [vocabulary.ids[f"[{name}]"] for name in ("CLS", "SEP", "PAD", "UNK", "MASK")]
    assert found == [cls, sep, pad, unk, mask]
    assert vocabulary.size == tokenizer.get_vocab_size()
    assert vocabulary.separators == (2 if kind == "roberta" else 1)


def test_its_files_are_saved_unchanged(tmp_path, vocabulary):
    expected = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert vocabulary.files(512) == vocabulary.files_beside_records() == expected


def test_texts_become_the_librarys_tokens(vocabulary, tokenizer):
    ids, counts = bulk_tokenizer(vocabulary).encode([*TEXT, "", "  two  spaces"])
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in [*TEXT, "", "  two  spaces"]]
    assert ids.tolist() == [*chain(*expected)] and counts.tolist() == list(map(len, expected))


def test_words_become_the_tokens_of_their_text(vocabulary, tokenizer):
    ids, counts = bulk_tokenizer(vocabulary).encode_words([text.split() for text in TEXT])
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXT]
    assert ids.tolist() == [*chain(*expected)]
    assert len(counts) == sum(len(text.split()) for text in TEXT)


def test_offsets_do_not_contain_the_space_before_a_word(vocabulary):
    encoding = tokenizer_of(vocabulary).encode(TEXT[0], add_special_tokens=False)
    assert not any(TEXT[0][start:end].startswith(" ") for start, end in encoding.offsets)


def test_pairs_have_the_tokenizers_separators(vocabulary, tokenizer):
    examples = TextExamples(Path("x"), (1, 2), ([QUESTION, "a"], [TEXT[0], TEXT[1]]), None)
    batch = TextRecords(examples, vocabulary, max_seq_length=90).read(np.arange(2))
    for row, pair in enumerate(zip(*examples.texts, strict=True)):
        expected = tokenizer.encode(*pair).ids
        assert batch["input_ids"][row, : batch["input_mask"][row].sum()].tolist() == expected


def test_answers_are_found_in_the_tokens_and_decoded_from_them(tmp_path, vocabulary, tokenizer):
    """A model that is certain of every labelled position gives back the answers, and windows are the library's."""
    words = TEXT[0].split()
    asked = SquadExample("q", QUESTION, words)
    answers = {"Anna": (0, 0), "Paris": (3, 3), "Bob's house": (5, 6), "1895": (7, 7), "in Bonn": (9, 10)}
    examples = [
        replace(asked, qas_id=text, orig_answer_text=text, start_position=start, end_position=end)
        for text, (start, end) in answers.items()
    ]
    settings = FeatureFlags(vocab_file=str(tmp_path), max_seq_length=90, max_query_length=30)
    features = list(convert_examples_to_features(examples, settings, num_workers=1))
    assert features[0].input_ids.tolist() == tokenizer.encode(QUESTION, TEXT[0]).ids
    starts, ends = np.zeros((2, len(features), 90), np.float32)
    for row, feature in enumerate(features):
        starts[row, feature.start_position] = ends[row, feature.end_position] = 9
    decoded = decode_predictions(
        examples, features, starts, ends, tokenizer_of(vocabulary), DecodingFlags(), version_2_with_negative=False
    )
    assert decoded.predictions == {text: text for text in answers}


def test_what_is_not_usable_is_refused_in_a_sentence(tmp_path):
    write_tokenizer(tmp_path, "roberta")
    content = json.loads((tmp_path / "tokenizer.json").read_text())

    def refused(changes, message, **options):
        (tmp_path / "tokenizer.json").write_text(json.dumps(content | changes))
        with pytest.raises(UserError, match=message):
            tokenizer_of(read_vocabulary(tmp_path, **options))

    refused({"model": content["model"] | {"vocab": {"a": "b"}}}, "no vocabulary with ids")
    refused({"added_tokens": [{"content": 5}]}, "no vocabulary with ids")
    refused({"added_tokens": []} | {"model": content["model"] | {"vocab": {"a": 0}}}, r"no token \[CLS\] or <s>")
    refused({"model": content["model"] | {"merges": ["x"]}}, "is not a usable tokenizer")
    refused({}, "--do_lower_case does not apply", do_lower_case=True)
    with pytest.raises(UserError, match="WordPiece is needed"):
        read_vocabulary(tmp_path).need_wordpiece()
