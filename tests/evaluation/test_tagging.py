"""Entity figures equal seqeval's to the last digit (tests/fixtures/make_classifier_reference.py)."""

import json
from pathlib import Path

import pytest

from evaluation.tagging import entities, entity_figures, entity_table, tag_figures

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "classifiers" / "seqeval.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_figures_equal_seqevals(case):
    found = entity_figures(case["labels"], case["predictions"])
    assert found == {name: case[name] for name in found}
    assert entity_table(case["labels"], case["predictions"]) == case["per_type"]


def test_entities_of_tags_that_are_not_valid():
    tags = [["I-A", "I-A", "B-A", "I-B", "O", "I-B"], ["B-A"]]
    assert entities(tags) == {(0, "A", 0, 1), (0, "A", 2, 2), (0, "B", 3, 3), (0, "B", 5, 5), (1, "A", 0, 0)}


def test_tags_without_prefixes():
    found = tag_figures([["N", "V", "N"], ["V"]], [["N", "V", "V"], ["V"]])
    assert found == {"accuracy": 0.75, "macro_f1": pytest.approx((2 / 3 + 0.8) / 2)}
