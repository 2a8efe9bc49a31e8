"""`prepare_data.py vocab --extend`: a model's vocabulary with the words that a corpus needs."""

import pytest

from configs.cli import parse
from configs.prepare import VocabConfig
from data.preparation.vocabulary import make_vocab
from data.tokenization import load_tokenizer

OLD = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdehmnort",
    *(f"##{letter}" for letter in "abcdehmnort"),
    "the",
]
TEXT = "the monad . The Monad, the monad! the other or other.\nthe catamaran: a catamaran; once a comet.\n"


@pytest.fixture
def extend(tmp_path):
    model, text = tmp_path / "model", tmp_path / "text.txt"
    model.mkdir()
    (model / "vocab.txt").write_text("\n".join(OLD) + "\n")
    text.write_text(TEXT)

    def run(*words):
        target = tmp_path / "new.txt"
        flags = ["--extend", model, "--input_file", text, "--vocab_file", target, *words]
        make_vocab(parse(VocabConfig, list(map(str, flags))))
        return target.read_text().splitlines()

    return run


def test_frequent_words_of_many_pieces_are_appended(extend, tmp_path, capsys):
    tokens = extend()
    assert tokens[: len(OLD)] == OLD
    assert tokens[len(OLD) :] == ["catamaran", "monad", "other"]  # by the pieces saved: 2 x 8, 3 x 4, 2 x 4
    assert "28 entries" in capsys.readouterr().out
    found = load_tokenizer(tmp_path / "new.txt", True).encode("the Monad or a comet").tokens
    assert found == ["the", "monad", "o", "##r", "a", "c", "##o", "##m", "##e", "##t"]


def test_how_many_and_which_words_is_set_by_flags(extend, capsys):
    assert extend("--new_entries", 1)[len(OLD) :] == ["catamaran"]
    assert extend("--min_frequency", 3)[len(OLD) :] == ["monad"]
    assert extend("--min_frequency", 1, "--min_pieces", 6)[len(OLD) :] == ["catamaran"]
    assert extend("--min_pieces", 30)[len(OLD) :] == []
    assert "lower --min_frequency or --min_pieces" in capsys.readouterr().err
