"""The sample questions are valid SQuAD data."""

import json

import pytest

from data.squad import questions, read_squad_examples
from examples.sample_questions import articles


@pytest.mark.parametrize("version_2", [False, True])
def test_sample_questions_are_valid_squad_data(tmp_path, version_2, capsys):
    data = articles(90, seed=3, version_2=version_2)
    (tmp_path / "sample.json").write_text(json.dumps({"data": data}))
    examples = read_squad_examples(tmp_path / "sample.json", is_training=True, version_2_with_negative=version_2)
    asked = list(questions(data))
    assert len(examples) == len(asked) == 90
    assert capsys.readouterr().err == ""  # no warning: every answer is found at its offset
    assert sum(example.is_impossible for example in examples) == (30 if version_2 else 0)
    assert len({question["id"] for question in asked}) == 90
    assert articles(90, seed=3, version_2=version_2) == data
