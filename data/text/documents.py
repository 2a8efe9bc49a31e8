"""Reads documents as lists of sentences from pieces of input files in several formats."""

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from configs.prepare import TextFlags
from data.text.sentences import short_lines, split_sentences
from data.text.spans import Span, bad_json
from utils.errors import UserError
from utils.messages import warn

Document = list[str]  # its sentences


def read_documents(
    spans: Sequence[Span], text: TextFlags, *, split: bool = False, whole_files: bool = False
) -> Iterator[Document]:
    """Yields the documents of a piece that have at least one sentence.

    Args:
        spans: the piece.
        text: how to read it.
        split: whether to split the lines of plain text into sentences; other formats are always split.
        whole_files: whether a plain text file is one document, in which the lines of a paragraph are joined.

    Raises:
        UserError: the text is not UTF-8 or contains NUL bytes, or a line of JSON is damaged.
    """
    for span in spans:
        with open(span.file, "rb") as stream:
            stream.seek(span.start)
            data = stream.read(span.end - span.start)
        if b"\0" in data and span.format != "prose":
            raise UserError(f"--input_file {span.name} is not text: it contains NUL bytes. Use other files.")
        content = _decode(data, span).removeprefix("\ufeff")
        if span.format == "wiki":
            documents = _wiki_documents(content, text.language)
        elif span.format == "jsonl":
            documents = _json_documents(content, text, span)
        elif span.format == "prose":
            documents = iter([_sentences_of(content.split("\n"), text.language)])
        elif whole_files:
            paragraphs = re.split(r"\n\s*\n", content)
            documents = iter([_sentences_of((" ".join(p.split()) for p in paragraphs), text.language)])
        else:
            documents = plain_documents(content, text.language if split else None)
        yield from (document for document in documents if document)


# A cut through a long document can leave a part of a character at either end of a piece.
_SPLIT_CHARACTER = re.compile(rb"\A[\x80-\xbf]{1,3}|[\xc2-\xf4][\x80-\xbf]{0,2}\Z")


def _decode(data: bytes, span: Span) -> str:
    """Decodes bytes; a few invalid ones are dropped, many are an error."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        content = data.decode("utf-8", "ignore")
    lost = len(data) - len(content.encode())
    if lost > max(8, len(data) // 100):
        raise UserError(f"--input_file {span.name} is not UTF-8 text: convert it first, or use other files.")
    inner = _SPLIT_CHARACTER.sub(b"", data)
    if len(inner.decode("utf-8", "ignore").encode()) < len(inner):
        warn(f"{span.name}: {lost} byte(s) between {span.start} and {span.end} are not UTF-8 and are dropped.")
    return content


def plain_documents(content: str, language: str | None = None) -> Iterator[Document]:
    """The lines between blank lines, split into sentences if a language is given."""
    document: Document = []
    for line in content.split("\n"):
        line = line.strip()
        if not line:
            yield document
            document = []
        elif language:
            document.extend(split_sentences(line, language))
        else:
            document.extend(short_lines(line))
    yield document


_DOC_EDGE = re.compile(r"^</?doc\b", re.MULTILINE)


def _wiki_documents(content: str, language: str) -> Iterator[Document]:
    """Yields articles without their titles; an article with only a title is an empty document."""
    rest = _DOC_EDGE.split(content, 1)[0]  # the rest of an article that is too long for one piece
    yield _sentences_of(map(html.unescape, rest.split("\n")), language)
    for title, text in _articles(content):
        lines = [html.unescape(line).strip() for line in text.split("\n")]
        title = html.unescape(title).strip()
        if lines and lines[0].rstrip(".") == title.rstrip("."):
            del lines[0]
        yield _sentences_of(lines, language)


def _articles(content: str) -> Iterator[tuple[str, str]]:
    """(title, text) of each `<doc … title="…">` to `</doc>`, in linear time, unlike a regular expression."""
    position = 0
    while (start := content.find("<doc ", position)) >= 0:
        line_end = content.find("\n", start)
        if line_end < 0:
            return
        close = line_end - 1 - (content[line_end - 1] == "\r")  # where the tag must end
        title = _title(content, start + len("<doc "), close) if content[close] == ">" else None
        if title is None:
            position = line_end
            continue
        end = content.find("\n</doc>", line_end)
        yield title, content[line_end + 1 : end + 1 if end >= 0 else None]
        if end < 0:
            return
        position = end + len("\n</doc>")


def _title(content: str, begin: int, close: int) -> str | None:
    """The title among the attributes from `begin` to `close`; "" if there is none.

    Only the title, which comes last, can contain ">". If another attribute does, the tag begins at a later `<doc ` of
    the line, or the line has no tag (None).
    """
    while True:
        inner = content.find(">", begin, close)
        found = content.find('title="', begin, inner if inner >= 0 else close)
        first, last = found + len('title="'), close - 1
        if found >= 0 and first <= last and content[last] == '"':
            return content[first:last]
        if inner < 0:
            return ""
        begin = content.find("<doc ", inner, close) + len("<doc ")
        if begin < len("<doc "):
            return None


def _json_documents(content: str, text: TextFlags, span: Span) -> Iterator[Document]:
    for line in content.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[text.text_field]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise bad_json(span, text.text_field, line) from None
        if not isinstance(value, str | None):
            raise bad_json(span, text.text_field, line)
        value = (value or "").encode("utf-8", "replace").decode()  # JSON can hold lone surrogates
        yield _sentences_of(value.split("\n"), text.language)


def _sentences_of(paragraphs: Iterable[str], language: str) -> Document:
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph.strip(), language)]
