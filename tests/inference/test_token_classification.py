"""Tagging equals Hugging Face's pipeline in every aggregation, and windows judge each token in the best context."""

import json
from pathlib import Path

import numpy as np
import pytest

from inference import ArgumentError, UnsupportedTask, load

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = json.loads((FIXTURES / "classifiers" / "token_pipelines.json").read_text())


@pytest.fixture(scope="module", params=["eager", "graph"])
def model(request):
    return load(FIXTURES / "huggingface" / "token_classification", mode=request.param, device="cpu")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['strategy']} {case['text'][:9]}")
def test_answers_equal_hugging_faces(model, case):
    found = model.token_classification(case["text"], aggregation_strategy=case["strategy"])
    expected = case["answer"]
    np.testing.assert_allclose([a.pop("score") for a in found], [b["score"] for b in expected], atol=1e-5)
    assert found == [{key: value for key, value in answer.items() if key != "score"} for answer in expected]


def test_the_model_does_this_task_only(model):
    assert model.tasks == ["token-classification", "feature-extraction"]
    with pytest.raises(UnsupportedTask, match="text-classification needs a classifier"):
        model.text_classification("the dog")
    with pytest.raises(ArgumentError, match="aggregation_strategy best is unknown"):
        model.token_classification("the dog", aggregation_strategy="best")


def test_each_token_of_a_long_text_is_judged_in_its_best_window():
    words = "the dog ran to the river and she saw it in that town".split() * 3
    path = FIXTURES / "huggingface" / "token_classification"
    short = load(path, mode="eager", device="cpu", seq_length=12)  # 10 tokens, 5 apart
    found = {a["index"]: a for a in short.token_classification(" ".join(words), aggregation_strategy="none")}
    for token in range(len(words)):
        starts = [*range(0, len(words) - 10, 5), 30]
        start = max(starts, key=lambda s: min(token - s, min(s + 10, len(words)) - 1 - token))
        window = short.token_classification(" ".join(words[start : start + 10]), aggregation_strategy="none")
        expected = next((answer for answer in window if answer["index"] == token - start + 1), None)
        answer = found.get(token + 1)
        assert (answer and answer["entity"]) == (expected and expected["entity"])
        assert not answer or answer["score"] == pytest.approx(expected["score"], abs=1e-6)
