"""Divides input files into pieces: byte ranges of whole documents, with their format.

Plain text has a sentence (or a paragraph) per line and a blank line between documents; WikiExtractor's output has
`<doc …>` markup; JSON lines have one object per document. The format is detected from the beginning of a file.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.text.json_text import copy_json_text
from utils.errors import UserError

TEXT_MARK = "\ufeff\n"  # marks plain text whose first line looks like another format
_BLOCK = 1 << 20
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")
_DOCUMENT_START = {
    "text": _BLANK_LINE, "wiki": re.compile(rb"\n(?=<doc )"), "jsonl": re.compile(rb"\n"), "prose": None
}  # fmt: skip
_JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.\w+)?$")


class Span(NamedTuple):
    """Whole documents: the bytes of a file from `start` (inclusive) to `end` (exclusive)."""

    file: str
    start: int
    end: int
    format: str  # "text" | "wiki" | "jsonl" | "prose": (a part of) one document, a paragraph per line
    name: str = ""  # the name of the file in messages


def span_bytes(pieces: Sequence[Sequence[Span]]) -> list[int]:
    """The size of each piece."""
    return [sum(span.end - span.start for span in piece) for piece in pieces]


def detect_format(file: Path, text_field: str, name: str = "") -> str:
    """Detects the format of a file from its beginning: "text", "wiki" or "jsonl".

    Raises:
        UserError: it is not text, or is JSON in another form.
    """
    named = f"--input_file {name or file}"
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        raise UserError(f"{named} cannot be read: {error.strerror}.") from None
    decoded = head.decode("utf-8", "replace")
    if b"\0" in head or decoded.count("\ufffd") > max(8, len(decoded) // 20):
        raise UserError(f"{named} is not UTF-8 text: convert it first, or use other files.")
    if decoded.startswith(TEXT_MARK):
        return "text"
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith("<doc "):
        return "wiki"
    if start.startswith("{"):
        try:
            first = json.loads(start.split("\n", 1)[0])
        except (ValueError, RecursionError):  # longer than the beginning, or not JSON
            with file.open("rb") as stream:
                stream.seek(head.index(b"{"))
                if copy_json_text(stream, text_field):
                    return "jsonl"
        else:
            if text_field in first:
                return "jsonl"
            raise UserError(f"{named} contains JSON lines without {text_field!r}: set the field with --text_field.")
    if start.startswith(("{", "[")) and _JSON_NAME.search(name or file.name):
        raise UserError(f"{named} is JSON, but not one object per line: convert it to JSON lines.")
    return "text"


def looks_foreign(line: str) -> bool:
    """Whether plain text that begins with this line could be taken for another format."""
    return line.lstrip().startswith(("{", "<doc "))


def plan_spans(
    files: Mapping[Path, str], text_field: str, piece_bytes: int, most: int, work: Path, *, whole_files: bool = False
) -> list[list[Span]]:
    """Group the documents of all files into pieces of about `piece_bytes`.

    Args:
        files: {file: its name in messages}.
        text_field: the field with the text in JSON lines.
        piece_bytes: the size of a piece.
        most: longer documents are cut after this many bytes, at the end of a line if one is near. The text of a longer
            JSON line is first copied to a file.
        work: the directory for such files.
        whole_files: whether a plain text file is one document.
    """
    pieces: list[list[Span]] = [[]]
    left = piece_bytes
    todo = [
        Span(str(file), 0, file.stat().st_size, detect_format(file, text_field, name), name)
        for file, name in files.items()
    ][::-1]
    copies = 0
    while todo:
        rest = todo.pop()
        end: int | None = rest.end
        if rest.end - rest.start > (most if whole_files and rest.format == "text" else left):
            end = _next_document(rest, rest.start + left, most)
        if end is None:
            copy = work / f"line-{copies:06d}"
            copies += 1
            begin, end = _copy_line(rest, rest.start + left, text_field, copy)
            todo.append(rest._replace(start=end))
            todo.append(Span(str(copy), 0, copy.stat().st_size, "prose", rest.name))
            todo.append(rest._replace(end=begin))
            continue
        if end > rest.start:
            pieces[-1].append(rest._replace(end=end))
            left -= end - rest.start
        if end < rest.end:
            todo.append(rest._replace(start=end))
        if left <= 0:
            pieces.append([])
            left = piece_bytes
    if not pieces[-1]:
        pieces.pop()
    return pieces


def _next_document(span: Span, position: int, most: int) -> int | None:
    """The start of the next document after `position`, or the position at which to cut a document with more than `most`
    bytes left; None for a JSON line of this length, which cannot be cut."""
    window = b""
    start = _DOCUMENT_START[span.format]
    with open(span.file, "rb") as stream:
        stream.seek(position - 1)
        while len(window) < min(most, span.end - position + 1):
            window += stream.read(min(max(len(window), _BLOCK // 16), most - len(window)))
            match = start.search(window) if start else None
            if match and (match.end() < len(window) or len(window) >= most):
                return min(position - 1 + match.end(), span.end)
    if position - 1 + len(window) >= span.end:
        return span.end
    if span.format == "jsonl":
        return None
    for border in (rb"\n", rb"\s", rb"(?=[^\x80-\xBF])"):  # the last one is between two UTF-8 characters
        if match := re.compile(border).search(window, 1):
            return position - 1 + match.end()
    return position - 1 + len(window)


def _copy_line(span: Span, position: int, text_field: str, target: Path) -> tuple[int, int]:
    """Copy the text of the JSON line around `position` to a file; return the starts of this line and the next."""
    with open(span.file, "rb") as source:
        source.seek(span.start)
        begin = span.start + source.read(position - span.start).rfind(b"\n") + 1
        source.seek(begin)
        with target.open("wb") as sink:
            if not copy_json_text(source, text_field, sink):
                source.seek(begin)
                raise bad_json(span, text_field, source.read(100).decode("utf-8", "replace"))
        source.seek(end := position)
        while block := source.readline(_BLOCK):
            end += len(block)
            if block.endswith(b"\n"):
                break
    return begin, end


def bad_json(span: Span, text_field: str, line: str) -> UserError:
    """The error about a line of JSON without a text."""
    return UserError(
        f"--input_file {span.name}: a line between bytes {span.start} and {span.end} is not a JSON object with the "
        f"text in {text_field!r}: {line[:60]!r}."
    )
