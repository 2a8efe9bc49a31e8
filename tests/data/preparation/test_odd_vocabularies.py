"""`prepare_data.py vocab` on alphabets, and sets made with odd vocabularies."""

import numpy as np
import pytest

from configs.cli import parse
from configs.prepare import PretrainingDataConfig, VocabConfig
from conversion.tokenizer_files import SPECIAL_TOKENS, read_vocabulary
from data.preparation.pretraining import prepare
from data.preparation.vocabulary import make_vocab
from data.sources import open_source

WORDS = "the cat sat on mat . it was a good day we went home".split()
TEXT = "the cat sat on the mat .\nit was a good day .\nwe went home .\n\n" * 12


def make(tmp_path, text, *words):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    files = ["--input_file", tmp_path / "text.txt", "--vocab_file", tmp_path / "vocab.txt"]
    make_vocab(parse(VocabConfig, list(map(str, [*files, *words]))))


def records(tmp_path, *words):
    files = ["--input_file", tmp_path / "text.txt", "--vocab_file", tmp_path / "vocab.txt"]
    files += ["--output_dir", tmp_path / "set", "--max_seq_length", 24, "--max_predictions_per_seq", 4]
    prepare(parse(PretrainingDataConfig, list(map(str, [*files, "--num_workers", 1, *words]))))
    return open_source(tmp_path / "set")


@pytest.mark.parametrize(("limit", "warns"), [(40, True), (200, False)])
def test_an_alphabet_that_is_too_small_is_named(tmp_path, capsys, limit, warns):
    rng = np.random.default_rng(5)
    characters = [chr(0x4E00 + index) for index in range(120)]
    text = "\n".join("".join(rng.choice(characters, 30)) + "。" for _ in range(60)) + "\n"
    make(tmp_path, text, "--vocab_size", 330, "--limit_alphabet", limit)
    output = capsys.readouterr()
    assert ("--limit_alphabet 40 leaves out characters of" in output.err) == warns
    assert ("the text is too small" in output.err) != warns  # not blamed for what the alphabet does


@pytest.mark.parametrize("odd", [["dup", "dup", "dup"], ["", ""], ["dup", "", "dup"]])
def test_doubled_and_blank_entries_count_for_the_size(tmp_path, capsys, odd):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *odd, *WORDS]) + "\n")
    made = records(tmp_path)
    size = len(SPECIAL_TOKENS) + len(odd) + len(WORDS)
    assert made.metadata["vocab_size"] == size > len(read_vocabulary(tmp_path / "set").ids)
    assert made.read(np.arange(len(made)))["input_ids"].max() < size
    assert ("duplicate entries" in capsys.readouterr().err) == (odd.count("dup") > 1)


def test_the_share_of_unknown_tokens_is_told(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT.replace("cat", "dog"))
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n")
    records(tmp_path)
    output = capsys.readouterr()
    assert "of the tokens are unknown) in" in output.out and "(0.00%" not in output.out
    assert "of the tokens are [UNK]" in output.err


def test_a_casing_that_does_not_fit_is_one_warning(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *WORDS, "The", "Cat"]) + "\n")
    assert records(tmp_path).metadata["do_lower_case"] is False  # as the entries suggest
    assert "do_lower_case" not in capsys.readouterr().err
    again = records(tmp_path, "--do_lower_case", "True", "--overwrite_output_dir")
    assert again.metadata["do_lower_case"] is True
    assert capsys.readouterr().err.count("--do_lower_case True contradicts") == 1
