"""Sentences, and long lines."""

import pytest

from data.text import sentences
from data.text.sentences import split_sentences
from tests.data.corpus import read


def test_a_long_line_is_cut_at_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "MAX_LINE", 12)
    file = tmp_path / "a"
    file.write_text("word and words and so on\n" + "x" * 30)
    assert read(file) == [["word and", "words and", "so on", "x" * 12, "x" * 12, "x" * 6]]


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("Dr. Smith went to the U.S. in Jan. 2020. He left.", ["Dr. Smith went to the U.S. in Jan. 2020.", "He left."]),
        ('He said "It works." Then he left.', ['He said "It works."', "Then he left."]),
        ("“Stop! Now!” he said. She ran.", ["“Stop! Now!” he said.", "She ran."]),
        ("Many, e.g. The Hobbit, sell. So it is.", ["Many, e.g. The Hobbit, sell.", "So it is."]),
        ("1. First item. 2. Second item.", ["1. First item.", "2. Second item."]),
        ("It costs 3.5 dollars at example.com now. So?", ["It costs 3.5 dollars at example.com now.", "So?"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(paragraph, sentences):
    assert split_sentences(paragraph, "en") == sentences
