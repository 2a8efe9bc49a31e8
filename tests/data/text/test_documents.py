"""Formats, pieces and sentences."""

import bz2
import gzip
import io
import json
import os
import re
import threading
from pathlib import Path

import pytest
import zstandard

from configs.cli import parse
from configs.prepare import CleanConfig, TextFlags
from data.preparation import duplicates, pieces
from data.preparation.cleaning import clean
from data.preparation.inputs import input_files
from data.text import documents as text
from data.text import unpacking
from data.text.documents import read_documents
from data.text.sentences import split_sentences
from data.text.spans import detect_format, plan_spans
from data.text.unpacking import unpack
from utils.errors import UserError

PLAIN = "one a\none b\n\n \t\ntwo a\n\n\nthree a\nthree b\nthree c\n"
DOCUMENTS = [["one a", "one b"], ["two a"], ["three a", "three b", "three c"]]
WIKI = (
    '<doc id="1" url="u" title="A &amp; B">\nA &amp; B\n\n'
    "It is 3 &lt; 4. See Fig. 3 for more.\n\nMore by J. R. Smith.\n</doc>\n"
    '<doc id="2" url="u" title="Only a title">\nOnly a title\n\n</doc>\n'
    '<doc id="3" url="u" title="C">\nC\n\nLast one.\n</doc>\n'
)


def flags(*files, **other):
    return TextFlags(input_file=tuple(map(str, files)), **other)


def read(file, split=False, piece=10**6, whole_files=False):
    return [
        document
        for spans in plan_spans({file: file.name}, "text", piece, 10**6, file.parent, whole_files=whole_files)
        for document in read_documents(spans, flags(file), split=split, whole_files=whole_files)
    ]


def test_plain_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(PLAIN)
    assert read(file) == DOCUMENTS
    file.write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert read(file) == DOCUMENTS


def test_a_file_may_be_one_document_of_wrapped_paragraphs(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("It was a dark\nand stormy night. Rain\nfell.\n\nThe end.\n")
    for piece in (10**6, 5):  # however small the pieces
        assert read(file, whole_files=True, piece=piece) == [
            ["It was a dark and stormy night.", "Rain fell.", "The end."]
        ]


def test_wiki_extractor_output(tmp_path):
    file = tmp_path / "wiki_00"
    file.write_text(WIKI)
    assert detect_format(file, "text") == "wiki"
    assert read(file) == [["It is 3 < 4.", "See Fig. 3 for more.", "More by J. R. Smith."], ["Last one."]]


def test_empty_articles_and_foreign_line_ends(tmp_path):
    file = tmp_path / "wiki_00"
    empty = '<doc id="4" title="Nothing">\n</doc>\n'
    file.write_bytes((empty + WIKI).replace("\n", "\r\n").encode())
    assert read(file) == [["It is 3 < 4.", "See Fig. 3 for more.", "More by J. R. Smith."], ["Last one."]]


def test_an_article_without_end_is_cut_and_nothing_is_lost(tmp_path):
    file = tmp_path / "wiki_00"
    sentences = [f"Sentence {number} is &lt; the next." for number in range(900)]
    file.write_text(WIKI + '<doc id="5" title="Long">\nLong\n\n' + "\n".join(sentences) + "\n</doc>\n" + WIKI)
    pieces = plan_spans({file: "wiki_00"}, "text", 3000, 2000, tmp_path)
    documents = [document for spans in pieces for document in read_documents(spans, flags(file))]
    assert len(documents) > 8 and documents[:2] == documents[-2:]
    assert [s for document in documents[2:-2] for s in document] == [s.replace("&lt;", "<") for s in sentences]


def test_half_a_character_in_json(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "Half \\ud83d of it."}\n')
    assert read(file) == [["Half ? of it."]]


def test_text_that_is_not_utf8(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_bytes(b"word " * 2000 + b"\xe9" * 20)
    assert len(read(file)) == 1 and "20 bytes" in capsys.readouterr().err
    file.write_bytes(b"word " * 20_000 + bytes(range(128, 256)) * 800)
    with pytest.raises(UserError, match="not UTF-8"):
        read(file)


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("block", [13, 1 << 20])
def test_a_line_of_json_may_be_longer_than_what_is_read_at_once(tmp_path, monkeypatch, ascii, block):
    monkeypatch.setattr(unpacking, "_BLOCK", block)
    paragraphs = [f'The {i}th "quote" \\ of Zoë 𝔘, {{not [any: more' for i in range(300)]
    row = {
        "id": {"text": "no", "x": ["text", 1, None]},
        'a"text': ":",
        "text": "\n".join(paragraphs),
        "z": [{}, "text"],
    }
    file = tmp_path / "a.jsonl"
    short = '{"text": "Short one."}\n'
    file.write_text(short + json.dumps(row, ensure_ascii=ascii) + "\n\n" + short)
    assert detect_format(file, "text") == "jsonl"
    pieces = plan_spans({file: "a"}, "text", 3000, 2000, tmp_path)
    assert max(sum(span.end - span.start for span in spans) for spans in pieces) <= 5001
    found = [document for spans in pieces for document in read_documents(spans, flags(file))]
    assert found[0] == found[-1] == ["Short one."]
    assert [line for document in found[1:-1] for line in document] == paragraphs
    with pytest.raises(UserError, match=r"a line between bytes .* in 'z'"):
        file.write_text('{"z": "x"}\n' + json.dumps(row) + "\n")
        plan_spans({file: "a"}, "z", 3000, 2000, tmp_path)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"text": "a\\u00e9\\ud834\\udd1e\\\\\\n\\"b"}', 'aé𝄞\\\n"b'),
        ('{"n": -1.5e3, "t\\u0065xt" : "x"} ', "x"),
        ('{"text": ""}', ""),
        ('{"text": 3}', None),
        ('{"text": ["x"]}', None),
        ('{"other": "text"}', None),
        ('{"a": {"text": "x"}}', None),
        ('{"text": "x', None),
        ('{"text": "x"\n}', None),
        ("", None),
    ],
)
def test_the_text_of_one_json_object(line, value):
    sink = io.BytesIO()
    assert unpacking.copy_json_text(io.BytesIO(line.encode()), "text", sink) == (value is not None)
    assert value is None or sink.getvalue().decode() == value


def test_a_json_line_whose_text_comes_late_is_told(tmp_path):
    file = tmp_path / "a"
    file.write_text(json.dumps({"id": "x" * 200_000, "text": "Late."}) + "\n")
    assert detect_format(file, "text") == "jsonl" and read(file) == [["Late."]]
    with pytest.raises(UserError, match="--text_field"):
        file.write_text(json.dumps({"id": "x", "content": "Late."}) + "\n")
        detect_format(file, "text")
    file.write_text('{"text": null}\n{"text": "Other."}\n')
    assert detect_format(file, "text") == "jsonl" and read(file) == [["Other."]]
    file.write_text('{ is what "a set" begins with.\n')
    assert detect_format(file, "text") == "text"
    for content in ('{\n "text": "x"\n}\n', '[{"text": "x"}]'):
        file.write_text(content)
        with pytest.raises(UserError, match="convert it to JSON lines"):
            detect_format(file, "text", "a.json")


def test_json_lines(tmp_path):
    file = tmp_path / "a"
    rows = [{"text": "First one. Second one.\nThird.", "id": 1}, {"text": ""}, {"text": None}, {"text": "Other."}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert detect_format(file, "text") == "jsonl"
    assert read(file) == [["First one.", "Second one.", "Third."], ["Other."]]
    with pytest.raises(UserError, match="--text_field"):
        detect_format(file, "body")
    file.write_text(file.read_text() + '{"text": 3}\n')
    with pytest.raises(UserError, match="not a JSON object"):
        read(file)


@pytest.mark.parametrize("content", [PLAIN, WIKI, "".join(json.dumps({"text": f"Nr {i}."}) + "\n" for i in range(9))])
@pytest.mark.parametrize("piece", [1, 7, 30, 64])
def test_pieces_hold_every_document_once(tmp_path, content, piece):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(content)
    pieces = plan_spans(dict.fromkeys(files, ""), "text", piece, 10**6, tmp_path)
    assert [d for spans in pieces for d in read_documents(spans, flags(file))] == read(file) * 2
    assert piece >= 30 or len(pieces) > 2


@pytest.mark.parametrize("content", ["word " * 5000, "x" * 25_000, "ü" * 12_000, "a sentence\n" * 2000])
def test_a_document_without_end_is_cut_and_nothing_is_lost(tmp_path, content):
    file = tmp_path / "a"
    file.write_text(content)
    pieces = plan_spans({file: "a"}, "text", 3000, 2000, tmp_path)
    assert max(sum(span.end - span.start for span in spans) for spans in pieces) <= 5001
    read_back = [d for spans in pieces for d in read_documents(spans, flags(file))]
    assert len(read_back) > 4
    assert "".join("".join(document) for document in read_back).replace(" ", "") == "".join(content.split())


def test_a_long_line_is_cut_at_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE", 12)
    file = tmp_path / "a"
    file.write_text("word and words and so on\n" + "x" * 30)
    assert read(file) == [["word and", "words and", "so on", "x" * 12, "x" * 12, "x" * 6]]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_files(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(PLAIN.encode()))
    (file,) = unpack(tmp_path, [tmp_path / name])
    assert read(file) == DOCUMENTS
    file.unlink()
    (tmp_path / name).write_bytes(pack(PLAIN.encode())[:-9])
    with pytest.raises(UserError, match=name):
        unpack(tmp_path, [tmp_path / name])


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


def test_unpacking_shows_its_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pieces.time, "monotonic", iter(range(0, 9999, 11)).__next__)
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(PLAIN.encode()))
    size = packed.stat().st_size
    unpack(tmp_path, [packed])
    assert re.fullmatch(f"unpack: {size} of {size} B, [0-9]+ B/s, 0 s left\n", capsys.readouterr().err)
    unpacking.spool(tmp_path / "input-000000", tmp_path / "copy")
    assert re.search(r"input-000000: [0-9]+ B, [0-9]+ B/s\n", capsys.readouterr().err)


def test_paths_globs_and_directories(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    a, b, c = (tmp_path / name for name in ("a.txt", "b.txt", "sub/c.txt"))
    assert input_files([str(tmp_path)]) == [a, b, c]
    assert input_files([str(tmp_path / "*.txt"), str(b), str(c)]) == [a, b, c]
    with pytest.raises(UserError, match=r"none\.txt does not exist"):
        input_files([str(tmp_path / "none.txt")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        input_files([str(tmp_path / "empty")])
    (tmp_path / ".work").mkdir()
    with pytest.raises(UserError, match="interrupted"):
        input_files([str(a)])


def test_what_is_no_text(tmp_path):
    file = tmp_path / "a"
    for content in (bytes(range(256)) * 9, "Zürich ähnlich für öde Äcker".encode("utf-16"), b"\xe4\xf6\xfc " * 100):
        file.write_bytes(content)
        with pytest.raises(UserError, match="not UTF-8 text"):
            detect_format(file, "text")
    file.write_bytes(b"text\n" * 20_000 + b"\0")
    with pytest.raises(UserError, match="NUL"):
        read(file)


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


def run_clean(source, output, *more):
    clean(parse(CleanConfig, ["--input_file", str(source), "--output_dir", str(output), *more]))


@pytest.mark.parametrize("workers", ["1", "3"])
def test_clean_writes_text_files_only(tmp_path, monkeypatch, capsys, workers):
    monkeypatch.setattr(text, "SMALLEST_PIECE", 50)
    (tmp_path / "wiki_00").write_text(WIKI)
    run_clean(tmp_path / "wiki_00", tmp_path / "out", "--num_workers", workers)
    files = input_files([str(tmp_path / "out")])
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".txt"}
    assert len(files) > 1
    assert [d for file in files for d in read(file)] == read(tmp_path / "wiki_00")
    run_clean(tmp_path / "wiki_00", tmp_path / "out")
    assert "complete already" in capsys.readouterr().out
    record = tmp_path / ".out.clean.json"
    for damage in (lambda: record.write_text("{}"), files[-1].unlink):
        damage()
        with pytest.raises(UserError, match="--overwrite_output_dir"):
            run_clean(tmp_path / "wiki_00", tmp_path / "out")
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        run_clean(tmp_path / "wiki_00", tmp_path / "out", "--language", "de")
    run_clean(tmp_path / "wiki_00", tmp_path / "out", "--language", "de", "--overwrite_output_dir")


def test_clean_refuses_what_holds_nothing(tmp_path):
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
    monkeypatch.setattr(text, "SMALLEST_PIECE", 4)
    monkeypatch.setattr(duplicates, "_HASH_BYTES", hash_bytes)
    for name, content in (("1", "a.\nb.\n\nc.\n"), ("2", "a.\nb.\n"), ("3", "a.\nd.\n")):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(content)
    run_clean(tmp_path / "in", tmp_path / "out", "--remove_duplicates", which)
    assert [document for file in input_files([str(tmp_path / "out")]) for document in read(file)] == expected
