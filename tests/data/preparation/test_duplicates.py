"""Duplicates are removed and counted."""

import json

import pytest

from configs.cli import parse
from configs.prepare import CleanConfig
from data.preparation.cleaning import clean
from tests.data.corpus import content, documents, prepare_set

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_duplicates_are_removed_and_counted(tmp_path, corpus):
    text, vocab = corpus
    once = prepare_set(text, vocab, tmp_path / "once")
    assert removed(once) == (0, 0)
    twice = text.with_name("twice.txt")
    lines = text.read_text()
    last = lines.split("\n\n")[-1]
    twice.write_text(f"{lines}\n{lines}\nwa wb new\n{last}")
    output = prepare_set(twice, vocab, tmp_path / "documents", "--remove_duplicates", "documents")
    count = len(documents())
    assert removed(output) == (count, 0)
    assert json.loads((output / "report.json").read_text())["corpus"]["documents"] == count + 1
    assert "duplicate documents removed</td><td>23<" in (output / "report.html").read_text()

    all_lines = [line for line in twice.read_text().splitlines() if line]
    sentences = len(all_lines) - len(set(all_lines))
    for workers in (1, 2):
        output = prepare_set(
            twice, vocab, tmp_path / f"both{workers}", "--remove_duplicates", "both", "--num_workers", workers
        )
        assert removed(output) == (count, sentences)
    assert content(tmp_path / "both1") == content(tmp_path / "both2")

    # What `clean` removed is counted where its text is used.
    flags = ["--input_file", str(twice), "--output_dir", str(tmp_path / "text"), "--remove_duplicates", "both"]
    clean(parse(CleanConfig, flags))
    assert removed(prepare_set(tmp_path / "text", vocab, tmp_path / "cleaned")) == (count, sentences)
    again = prepare_set(tmp_path / "text", vocab, tmp_path / "again", "--remove_duplicates", "lines")
    assert removed(again) == (count, sentences)


def removed(directory):
    corpus = json.loads((directory / "report.json").read_text())["corpus"]
    return corpus["duplicate_documents_removed"], corpus["duplicate_lines_removed"]
