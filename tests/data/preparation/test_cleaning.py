"""`prepare_data.py clean`."""

import json
import os
import threading
from pathlib import Path

import pytest

from configs.cli import parse
from configs.prepare import CleanConfig
from data.preparation import duplicates, inputs
from data.preparation.cleaning import clean
from data.preparation.inputs import input_files
from data.text.sentences import split_sentences
from tests.data.corpus import DOCUMENTS, PLAIN, WIKI, read
from utils.errors import UserError


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_standard_input_and_other_pipes(tmp_path, monkeypatch, name):
    (tmp_path / "in").write_text(PLAIN)
    if name == "-":
        monkeypatch.setattr("sys.stdin", (tmp_path / "in").open())
    else:
        name = str(tmp_path / name)
        os.mkfifo(name)
        writer = threading.Thread(target=lambda: Path(name).write_text(PLAIN))
        writer.start()
    run_clean(name, tmp_path / "out")
    assert read(tmp_path / "out/text-00000.txt") == DOCUMENTS
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"text-00000.txt"}


def run_clean(source, output, *more):
    clean(parse(CleanConfig, ["--input_file", str(source), "--output_dir", str(output), *more]))


@pytest.mark.parametrize("workers", ["1", "3"])
def test_clean_writes_text_files_only(tmp_path, monkeypatch, capsys, workers):
    monkeypatch.setattr(inputs, "SMALLEST_PIECE", 50)
    (tmp_path / "wiki_00").write_text(WIKI)
    run_clean(tmp_path / "wiki_00", tmp_path / "out", "--num_workers", workers)
    files = input_files([str(tmp_path / "out")])
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".txt"}
    assert len(files) > 1
    assert [d for file in files for d in read(file)] == read(tmp_path / "wiki_00")
    run_clean(tmp_path / "wiki_00", tmp_path / "out")
    assert "already complete" in capsys.readouterr().out
    record = tmp_path / ".out.clean.json"
    for damage in (lambda: record.write_text("{}"), files[-1].unlink):
        damage()
        with pytest.raises(UserError, match="--overwrite_output_dir"):
            run_clean(tmp_path / "wiki_00", tmp_path / "out")
    run_clean(tmp_path / "wiki_00", tmp_path / "out", "--overwrite_output_dir")
    with pytest.raises(UserError, match=r"the results of other flags: --language \(was en\); use another directory"):
        run_clean(tmp_path / "wiki_00", tmp_path / "out", "--language", "de")
    run_clean(tmp_path / "wiki_00", tmp_path / "out", "--language", "de", "--overwrite_output_dir")


def test_clean_refuses_empty_input(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="empty"):
        run_clean(tmp_path / "a", tmp_path / "out")
    (tmp_path / "a").write_text(" \n \n")
    with pytest.raises(UserError, match="no text"):
        run_clean(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("none", [["a.", "b."], ["c."], ["a.", "b."], ["a.", "d."]]),
        ("documents", [["a.", "b."], ["c."], ["a.", "d."]]),
        ("lines", [["a.", "b."], ["c."], ["d."]]),
        ("both", [["a.", "b."], ["c."], ["d."]]),
    ],
)
@pytest.mark.parametrize("hash_bytes", [128, 1 << 28])
def test_duplicates_are_removed_over_all_pieces(tmp_path, monkeypatch, which, expected, hash_bytes):
    monkeypatch.setattr(inputs, "SMALLEST_PIECE", 4)
    monkeypatch.setattr(duplicates, "_HASH_BYTES", hash_bytes)
    for name, content in (("1", "a.\nb.\n\nc.\n"), ("2", "a.\nb.\n"), ("3", "a.\nd.\n")):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(content)
    run_clean(tmp_path / "in", tmp_path / "out", "--remove_duplicates", which)
    assert [document for file in input_files([str(tmp_path / "out")]) for document in read(file)] == expected


@pytest.mark.parametrize("remove", ["none", "both"])
@pytest.mark.parametrize(
    "first",
    [
        "{ is a brace.",
        '{"id": 3} is JSON.',
        '{"text": "x"}',
        "<doc is a tag.",
        '<doc id="1" title="x">',
        "[1, 2] is a list.",
    ],
)
def test_cleaned_text_is_read_as_text(tmp_path, first, remove):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"{first}\nSecond."}) + "\n" + '{"text": "Other."}\n')
    run_clean(tmp_path / "a.jsonl", tmp_path / "once", "--remove_duplicates", remove)
    run_clean(tmp_path / "once", tmp_path / "twice", "--remove_duplicates", remove)
    for name in ("once", "twice"):
        assert read(tmp_path / name / "text-00000.txt") == [[*split_sentences(first, "en"), "Second."], ["Other."]]


@pytest.mark.parametrize("remove", ["none", "both"])
def test_control_characters_are_dropped(tmp_path, remove):
    lines = ["A\0b\x07c.", "\x01\x02", "\ufffd" * 50, "D\x85\x0be.\tf."]
    rows = ["\n".join(lines), "\0", "Last."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    run_clean(tmp_path / "a.jsonl", tmp_path / "out", "--remove_duplicates", remove)
    assert [" ".join(document) for document in read(tmp_path / "out/text-00000.txt")] == ["Abc. De.\tf.", "Last."]
