"""Extracts one text from a JSON object of any length, with little memory."""

import json
import re
from typing import BinaryIO

_BLOCK = 1 << 20
# The next token of JSON inside a string (complete escapes, with both halves of a surrogate pair) and outside.
_INSIDE = re.compile(rb'[^"\\]+|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u.{4}|\\.|"', re.DOTALL)
_OUTSIDE = re.compile(rb'[^"{}\[\],:\n]+|.', re.DOTALL)
_LONGEST_ESCAPE = 12


def copy_json_text(source: BinaryIO, field: str, sink: BinaryIO | None = None) -> bool:
    """Read the JSON object at the source's position, which must end on the same line.

    Args:
        source: the file, at the start of the object.
        field: the field whose string is written to `sink`.
        sink: receives the text.

    Returns:
        whether the object is complete and has a string in that field.
    """
    data, position, depth, inside = b"", 0, 0, False
    before = b""  # the last punctuation mark outside of strings
    name = b""
    found = False
    while True:
        if len(data) - position < _LONGEST_ESCAPE:
            data, position = data[position:] + source.read(_BLOCK), 0
        match = (_INSIDE if inside else _OUTSIDE).match(data, position)
        if not match:
            return False  # it is incomplete
        part, position = match[0], match.end()
        in_key, in_value = depth == 1 and before in (b"{", b","), depth == 1 and before == b":"
        if inside and part != b'"':
            if in_key and len(name) <= len(field) * _LONGEST_ESCAPE:
                name += part
            elif in_value and sink and _decoded(name) == field:
                text = _decoded(part) if part[:1] == b"\\" else None
                sink.write(part if text is None else text.encode("utf-8", "replace"))
        elif part == b'"':
            inside = not inside
            name = b"" if inside and in_key else name
            found = found or (in_value and _decoded(name) == field)
        elif part in b"{[":
            depth, before = depth + 1, part
        elif part in b"}]":
            depth, before = depth - 1, part
            if depth <= 0:
                return found
        elif part in b",:":
            before = part
        elif part == b"\n":
            return False


def _decoded(string: bytes) -> str | None:
    """Decodes the content of a JSON string; None if it is invalid."""
    try:
        return str(json.loads(b'"%s"' % string))
    except ValueError:
        return None
