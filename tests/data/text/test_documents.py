"""Documents of several formats."""

import json
import re
import time

import numpy as np
import pytest

from data.text import documents
from data.text.spans import detect_format
from tests.data.corpus import DOCUMENTS, PLAIN, WIKI, read
from utils.errors import UserError


def test_plain_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(PLAIN)
    assert read(file) == DOCUMENTS
    file.write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert read(file) == DOCUMENTS


def test_a_file_can_be_one_document_of_wrapped_paragraphs(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("It was a dark\nand stormy night. Rain\nfell.\n\nThe end.\n")
    for piece in (10**6, 5):  # whatever the size of pieces
        assert read(file, whole_files=True, piece=piece) == [
            ["It was a dark and stormy night.", "Rain fell.", "The end."]
        ]


def test_wiki_extractor_output(tmp_path):
    file = tmp_path / "wiki_00"
    file.write_text(WIKI)
    assert detect_format(file, "text") == "wiki"
    assert read(file) == [["It is 3 < 4.", "See Fig. 3 for more.", "More by J. R. Smith."], ["Last one."]]


def test_empty_articles_and_windows_line_ends(tmp_path):
    file = tmp_path / "wiki_00"
    empty = '<doc id="4" title="Nothing">\n</doc>\n'
    file.write_bytes((empty + WIKI).replace("\n", "\r\n").encode())
    assert read(file) == [["It is 3 < 4.", "See Fig. 3 for more.", "More by J. R. Smith."], ["Last one."]]


def test_lone_surrogates_in_json(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "Half \\ud83d of it."}\n')
    assert read(file) == [["Half ? of it."]]


def test_text_that_is_not_utf8(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_bytes(b"word " * 2000 + b"\xe9" * 20)
    assert len(read(file)) == 1 and "20 byte(s)" in capsys.readouterr().err
    file.write_bytes("Tr\u00e8s bien.\n".encode("latin-1"))
    assert read(file) == [["Trs bien."]] and "1 byte(s)" in capsys.readouterr().err
    file.write_bytes("\u00e9".encode()[1:] + "word \u20ac".encode()[:-1])  # cut within a character at both ends
    assert read(file) == [["word"]] and not capsys.readouterr().err
    file.write_bytes(b"word " * 20_000 + bytes(range(128, 256)) * 800)
    with pytest.raises(UserError, match="not UTF-8"):
        read(file)


def test_the_format_of_a_json_line_whose_text_comes_late(tmp_path):
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


def test_files_that_are_not_text(tmp_path):
    file = tmp_path / "a"
    for content in (bytes(range(256)) * 9, "Zürich ähnlich für öde Äcker".encode("utf-16"), b"\xe4\xf6\xfc " * 100):
        file.write_bytes(content)
        with pytest.raises(UserError, match="not UTF-8 text"):
            detect_format(file, "text")
    file.write_bytes(b"text\n" * 20_000 + b"\0")
    with pytest.raises(UserError, match="NUL"):
        read(file)


# Finds the same articles in quadratic time.
ARTICLE = re.compile(
    r"<doc [^>\n]*?(?:title=\"(?P<title>[^\n]*?)\")?>\r?\n(?P<text>.*?)(?:^</doc>|\Z)", re.DOTALL | re.MULTILINE
)


def test_articles_are_those_of_a_regular_expression():
    parts = ["<doc ", "</doc>", 'title="', '"', ">", "\n", "\r\n", "\n</doc>\n", "a", '<doc title="b">\n', "<doc>"]
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(20_000):
        content = "".join(rng.choice(parts, rng.integers(1, 15)))
        expected = [(match["title"] or "", match["text"]) for match in ARTICLE.finditer(content)]
        assert list(documents._articles(content)) == expected, content
        found += len(expected)
    assert found > 1000


@pytest.mark.parametrize("part", ["<doc ", "<doc >", '<doc title="', '<doc title="a"> b>', "<doc x>\n</doc", "> "])
def test_damaged_markup_takes_linear_time(part):
    content = part * (400_000 // len(part)) + "\n"
    started = time.process_time()
    list(documents._articles(content))
    assert time.process_time() - started < 2
