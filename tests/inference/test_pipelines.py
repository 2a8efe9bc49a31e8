"""Every task's answers equal Hugging Face's pipelines, on the random models of tests/fixtures."""

import json
from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

from inference import load
from inference.runner import POSITIONS_PER_EXAMPLE
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"
EXPECTED = json.loads((FIXTURES / "pipelines.json").read_text())
MODES = ("eager", "graph")


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def pretraining(mode):
    return load(FIXTURES / "pretraining", mode=mode)


@pytest.fixture(scope="module")
def question_answering(mode):
    return load(FIXTURES / "question_answering", mode=mode)


@pytest.mark.parametrize("case", EXPECTED["fill_mask"], ids=lambda case: case["text"])
def test_fill_mask(pretraining, case):
    found, expected = pretraining.fill_mask(case["text"]), case["answer"]
    if isinstance(expected[0], dict):
        found, expected = [found], [expected]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one["token"] for one in ours] == [one["token"] for one in theirs]
        np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in theirs], atol=1e-5)


@pytest.mark.parametrize("case", EXPECTED["question_answering"], ids=lambda case: case["question"])
def test_question_answering_over_several_windows(question_answering, case):
    options = {"top_k": 3, "seq_length": 37, "doc_overlap": 11, "max_answer_length": 7}
    found = question_answering.question_answering(case["question"], case["context"], **options)
    for ours, theirs in zip(found, case["answer"], strict=True):
        assert {key: ours[key] for key in ("start", "end", "answer")} == {
            key: theirs[key] for key in ("start", "end", "answer")
        }
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


@pytest.mark.parametrize("case", EXPECTED["text_classification"], ids=lambda case: case["text"])
def test_text_classification(mode, case):
    found = load(FIXTURES / "classification", mode=mode).text_classification(case["text"])
    assert [one["label"] for one in found] == [one["label"] for one in case["answer"]]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in case["answer"]], atol=1e-5)


def test_feature_extraction(pretraining):
    (case,) = EXPECTED["feature_extraction"]
    found = pretraining.feature_extraction(case["text"])
    np.testing.assert_allclose(found, case["answer"], atol=1e-5)
    np.testing.assert_allclose(pretraining.feature_extraction(case["text"], pooling="first"), found[0], atol=1e-5)
    np.testing.assert_allclose(
        pretraining.feature_extraction(case["text"], pooling="mean"), np.mean(found, 0), atol=1e-5
    )


def test_next_sentence(pretraining):
    vocab = (FIXTURES / "pretraining" / "vocab.txt").read_text().split("\n")
    tokens = "[CLS] the cat sat [SEP] she saw it . [SEP]".split()
    ids = flow.tensor(np.array([[vocab.index(token) for token in tokens]], np.int32))
    segments = flow.tensor(np.array([[0] * 5 + [1] * 5], np.int32))
    model = pretraining._runner.model
    logits = model(ids, flow.ones_like(ids), segments)["seq_relationship_score"].numpy()[0]
    probabilities = np.exp(logits) / np.exp(logits).sum()
    found = pretraining.next_sentence("the cat sat", "she saw it.")
    assert found["label"] == ("is_next", "random")[probabilities.argmax()]
    assert found["score"] == pytest.approx(probabilities.max(), abs=1e-5)


def test_a_mask_keeps_its_surroundings(pretraining):
    sequences = {one["token_str"]: one["sequence"] for one in pretraining.fill_mask("The CAT  [MASK]!", top_k=97)}
    assert sequences["##s"] == "The CATs!" and sequences["dog"] == "The CAT  dog!"
    assert len(sequences) == 97


def test_more_masks_than_one_example_holds(pretraining):
    count = POSITIONS_PER_EXAMPLE + 3
    text = "a [MASK] " * count
    together = pretraining.fill_mask(text)
    assert len(together) == count
    assert sum(one["score"] for one in pretraining.fill_mask("a [MASK]", top_k=97)) == pytest.approx(1, abs=1e-5)
    first = pretraining.fill_mask([text, "the [MASK]"])[0]
    for ours, again in zip(together, first, strict=True):
        assert [one["token"] for one in ours] == [one["token"] for one in again]


def test_a_context_without_an_answer(question_answering):
    context = EXPECTED["question_answering"][0]["context"]
    found = question_answering.question_answering("who?", context, top_k=500, may_be_empty=True, seq_length=37)
    assert sum(one["answer"] == "" for one in found) == 1
    assert all(context[one["start"] : one["end"]] == one["answer"] for one in found)


def test_a_long_context(question_answering):
    context = "the town . " * 700 + "the river is in the town"
    (best,) = question_answering.question_answering("where is the river?", context)
    assert context[best["start"] : best["end"]] == best["answer"]


def test_words_are_whole_in_answers(question_answering):
    found = question_answering.question_answering("who?", "Ünder-played RIVERS, it's", top_k=50)
    starts = {"Ünder": 0, "-": 5, "played": 6, "RIVERS": 13, ",": 19, "it": 21, "'": 23, "s": 24}
    ends = {start + len(word) for word, start in starts.items()}
    assert all(one["start"] in starts.values() and one["end"] in ends for one in found)


def test_regression_and_independent_labels(tmp_path):
    def changed(name, **settings):
        directory = tmp_path / name
        directory.mkdir()
        for file in ("config.json", "model.safetensors", "vocab.txt"):
            (directory / file).write_bytes((FIXTURES / "classification" / file).read_bytes())
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | settings))
        return load(directory, mode="eager").text_classification("the cat.")

    raw = {one["label"]: one["score"] for one in changed("raw", problem_type="regression")}
    independent = {one["label"]: one["score"] for one in changed("i", problem_type="multi_label_classification")}
    for label, score in raw.items():
        assert independent[label] == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-6)


def test_rows_keep_their_order_and_bad_rows_give_errors(pretraining):
    long = "cat " * 60 + "[MASK]"
    rows = [{"text": "a [MASK]"}, {"text": "no"}, UserError("line 3"), {}, {"text": 7}, {"text": long}, {"text": " "},
            {"text": "\udcff [MASK]"}, {"text": "the [MASK] sat"}]  # fmt: skip
    found = list(pretraining.stream("fill-mask", rows))
    messages = [str(answer) if isinstance(answer, UserError) else "" for answer in found]
    assert [bool(message) for message in messages] == [False, True, True, True, True, True, True, True, False]
    for message, part in zip(messages[1:8], ("no [MASK]", "line 3", "'text' is missing", "must be text", "at most 53",
                                             "is empty", "not valid UTF-8"), strict=True):  # fmt: skip
        assert part in message
    assert len(found[0]) == len(found[8]) == 5
    with pytest.raises(UserError, match="no \\[MASK\\]"):
        pretraining.fill_mask(["a [MASK]", "no"])


@pytest.fixture
def unspaced(tmp_path):
    """A question-answering model whose vocabulary has kana and Hangul."""
    letters = sorted(set("ひらがなだけのながいぶんしょう가나다라"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return load(FIXTURES / "question_answering", vocab_file=tmp_path / "vocab.txt", do_lower_case=False)


@pytest.mark.parametrize(
    ("context", "choice", "grows"),
    [
        ("ひらがなだけのながいぶんしょう", None, False),
        ("ひらがなだけのながいぶんしょう", True, True),
        ("가나다라가나다라", None, True),
        ("가나다라가나다라", False, False),
    ],
)
def test_answers_of_scripts_without_spaces_need_not_be_whole_words(context, choice, grows, unspaced):
    options = {"max_answer_length": 2, "align_to_words": choice}
    (best,) = unspaced.question_answering("ひ?", context, **options)
    assert (best["answer"] == context) if grows else 1 <= len(best["answer"]) <= 2
    assert context[best["start"] : best["end"]] == best["answer"]
