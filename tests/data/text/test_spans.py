"""Pieces of input files: every document is in exactly one."""

import json

import pytest

from data.text import json_text
from data.text.documents import read_documents
from data.text.spans import detect_format, plan_spans
from tests.data.corpus import PLAIN, WIKI, read, text_flags
from utils.errors import UserError


def test_a_long_article_is_cut_and_nothing_is_lost(tmp_path):
    file = tmp_path / "wiki_00"
    sentences = [f"Sentence {number} is &lt; the next." for number in range(900)]
    file.write_text(WIKI + '<doc id="5" title="Long">\nLong\n\n' + "\n".join(sentences) + "\n</doc>\n" + WIKI)
    pieces = plan_spans({file: "wiki_00"}, "text", 3000, 2000, tmp_path)
    documents = [document for spans in pieces for document in read_documents(spans, text_flags(file))]
    assert len(documents) > 8 and documents[:2] == documents[-2:]
    assert [s for document in documents[2:-2] for s in document] == [s.replace("&lt;", "<") for s in sentences]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("block", [13, 1 << 20])
def test_a_json_line_can_be_longer_than_a_block(tmp_path, monkeypatch, ascii, block):
    monkeypatch.setattr(json_text, "_BLOCK", block)
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
    found = [document for spans in pieces for document in read_documents(spans, text_flags(file))]
    assert found[0] == found[-1] == ["Short one."]
    assert [line for document in found[1:-1] for line in document] == paragraphs
    with pytest.raises(UserError, match=r"a line between bytes .* in 'z'"):
        file.write_text('{"z": "x"}\n' + json.dumps(row) + "\n")
        plan_spans({file: "a"}, "z", 3000, 2000, tmp_path)


@pytest.mark.parametrize("content", [PLAIN, WIKI, "".join(json.dumps({"text": f"Nr {i}."}) + "\n" for i in range(9))])
@pytest.mark.parametrize("piece", [1, 7, 30, 64])
def test_pieces_hold_every_document_once(tmp_path, content, piece):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(content)
    pieces = plan_spans(dict.fromkeys(files, ""), "text", piece, 10**6, tmp_path)
    assert [d for spans in pieces for d in read_documents(spans, text_flags(file))] == read(file) * 2
    assert piece >= 30 or len(pieces) > 2


@pytest.mark.parametrize("content", ["word " * 5000, "x" * 25_000, "ü" * 12_000, "a sentence\n" * 2000])
def test_a_long_document_is_cut_and_nothing_is_lost(tmp_path, content):
    file = tmp_path / "a"
    file.write_text(content)
    pieces = plan_spans({file: "a"}, "text", 3000, 2000, tmp_path)
    assert max(sum(span.end - span.start for span in spans) for spans in pieces) <= 5001
    read_back = [d for spans in pieces for d in read_documents(spans, text_flags(file))]
    assert len(read_back) > 4
    assert "".join("".join(document) for document in read_back).replace(" ", "") == "".join(content.split())
