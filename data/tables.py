"""Reads tables of texts: CSV (RFC 4180), TSV and JSON lines, plain or compressed with gzip.

The line of every row is kept for error messages.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.spelling import nearest
from utils.errors import UserError
from utils.messages import warn

_MOST_BYTES = 8 << 30  # limit after decompression, because a small gzip file can be a zip bomb
_MOST_FIELD = 1 << 28  # characters
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
_JSON_LINES = (".jsonl", ".json", ".ndjson")
# One field of a TSV with CSV quoting, and the character after it.
_CSV_FIELD = re.compile(r'(?:"(?:[^"]|"")*"|[^"\t\r\n]*)(?:\t|\r?\n|\Z)')
# An escape of a surrogate, which is half of a character; two of them are one character, and one alone is no text.
_SURROGATE, _SURROGATE_TEXT = re.compile(r"\\u[dD][89a-fA-F]"), re.compile("[\ud800-\udfff]")
_UNICODE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Table:
    """A file's columns.

    Attributes:
        path: the file.
        columns: {name: [n] values}: text, or any JSON value if the file contains JSON lines.
        lines: [n], the line in which each row begins, from 1.
        numbers: [n], the number of each row in the file, from 1; None: the table has all rows of the file.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: tuple[int, ...]
    numbers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def location(self, row: int) -> str:
        """The file, the row from 1 and its line, for messages."""
        return f"{self.path} row {self._number(row)} (line {self.lines[row]})"

    def _number(self, row: int) -> int:
        return row + 1 if self.numbers is None else self.numbers[row]

    def column(self, name: str, flag: str) -> list[Any]:
        """The values of the column given by a flag; if it is missing, raises UserError with the most similar name."""
        if name in self.columns:
            return self.columns[name]
        near = nearest(name, list(self.columns))
        hint = f"did you mean {near!r}?" if near else f"its columns are {', '.join(map(repr, self.columns))}."
        raise UserError(f"{self.path} has no column {name!r} (from {flag}): {hint}")

    def first(self, count: int | None) -> Table:
        """The first `count` rows, or all."""
        return self.take(range(min(count or len(self), len(self))))

    def take(self, rows: Iterable[int]) -> Table:
        """The given rows."""
        rows = list(rows)
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(
            self.path, columns, tuple(self.lines[row] for row in rows), tuple(self._number(row) for row in rows)
        )


def read_table(path: str | Path, *, delimiter: str | None = None, header: bool = True) -> Table:
    """Reads a file; its name determines the format: .tsv, .jsonl, .json or .ndjson (all also with .gz), else CSV.

    Args:
        path: the file.
        delimiter: the character between two fields, or its name, such as "tab" (default: by the format).
        header: whether the first row names the columns; otherwise their names are "1", "2", ….

    Raises:
        UserError: the file cannot be read, is not UTF-8, has no rows, or a row has too few or too many fields. The
            message gives the file and the row.
    """
    path = Path(path)
    text = read_text(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    table = (
        _read_json_lines(path, text) if suffix in _JSON_LINES else _read_fields(path, text, suffix, delimiter, header)
    )
    if not len(table):
        raise UserError(f"{path} contains no rows.")
    return table


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, plain or compressed with gzip, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            with gzip.open(plain) if packed else plain as file:
                content = b"".join(_chunks(file, path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}): copy it again.") from None
    if content[:2] in _UNICODE_MARKS:
        raise UserError(f"{path} row 1 is {_UNICODE_MARKS[content[:2]]} text, not UTF-8: convert the file to UTF-8.")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UserError(f"{path} line {line} has a NUL character, as UTF-16 text does: convert the file to UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}): convert the file to UTF-8."
        ) from None


def _chunks(file: Any, path: Path) -> Iterable[bytes]:
    size = 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > _MOST_BYTES:
            raise UserError(f"{path} contains more than {_MOST_BYTES >> 30} GB of text: split it.")
        yield chunk


def _read_json_lines(path: Path, text: str) -> Table:
    if text.lstrip().startswith("["):
        raise UserError(f"{path} is a JSON array, not JSON lines: write one object per line.")
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} row {len(rows) + 1} (line {number}) is not JSON: {error}.") from None
        if _SURROGATE.search(line) and _SURROGATE_TEXT.search(json.dumps(row, ensure_ascii=False)):
            raise UserError(
                f"{path} row {len(rows) + 1} (line {number}) has half of a character, an escape from \\ud800 to "
                "\\udfff without its other half: correct the text."
            )
        if not isinstance(row, dict):
            raise UserError(f"{path} row {len(rows) + 1} (line {number}) is not a JSON object: put one on each line.")
        if rows and row.keys() != rows[0].keys():
            different = sorted(row.keys() ^ rows[0].keys())
            raise UserError(
                f"{path} row {len(rows) + 1} (line {number}) does not have the keys of the first row: "
                f"{', '.join(map(repr, different))} is in only one of them."
            )
        rows.append(row)
        lines.append(number)
    names = list(rows[0]) if rows else []
    return Table(path, {name: [row[name] for row in rows] for name in names}, tuple(lines))


def _read_fields(path: Path, text: str, suffix: str, delimiter: str | None, header: bool) -> Table:
    separator = _delimiter(path, text, suffix, delimiter)
    quoted = delimiter is not None or suffix != ".tsv" or _quotes_fields(text)
    rows = list(_quoted_rows(path, text, separator) if quoted else _plain_rows(text, separator))
    if not rows:
        raise UserError(f"{path} is empty.")
    names = rows.pop(0)[1] if header else [str(number + 1) for number in range(len(rows[0][1]))]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"{path} row 1 has the column {doubled!r} twice: rename one of them.")
    for number, (line, fields) in enumerate(rows, 1):
        if len(fields) != len(names):
            raise UserError(
                f"{path} row {number} (line {line}) has {len(fields)} fields, not {len(names)}: correct the row, or "
                "quote a field that contains the delimiter."
            )
    columns = {name: [fields[index] for _, fields in rows] for index, name in enumerate(names)}
    return Table(path, columns, tuple(line for line, _ in rows))


def _delimiter(path: Path, text: str, suffix: str, given: str | None) -> str:
    if given is not None:
        separator = _DELIMITERS.get(given, given)
        if len(separator) != 1 or separator in '"\r\n':
            raise UserError(f"--delimiter {given!r} must be one character that is not a quote, or the word tab.")
        return separator
    if suffix == ".tsv":
        return "\t"
    header = text.split("\n", 1)[0]
    others = [character for character in ";\t|" if character in header]
    if "," not in header and len(others) == 1:
        warn(f"{path}: the header has no comma, so {others[0]!r} is used as the delimiter. --delimiter overrides this.")
        return others[0]
    return ","


def _quotes_fields(text: str) -> bool:
    """Whether a TSV uses CSV quoting. In most TSV files, such as GLUE's, quotes are part of the text."""
    position = 0
    while position < len(text):
        field = _CSV_FIELD.match(text, position)
        if field is None:
            return False
        position = field.end()
    return True


def _plain_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of each row that is not blank, with quotes as part of the text."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line:
            yield number, line.split(separator)


def _quoted_rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of each row that is not blank; the line is the first one of the row."""
    csv.field_size_limit(_MOST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number, line = 0, 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
                number += 1
            line = reader.line_num + 1
    except csv.Error as error:
        problem = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise UserError(
            f"{path} row {number} (line {line}) is not CSV: {problem}. Quote the whole field, and double each quote "
            "inside it."
        ) from None


def check_columns(tables: Sequence[Table], needed: Sequence[str]) -> None:
    """Raises UserError if a later table lacks a needed column of the first one."""
    first, *others = tables
    for table in others:
        for name in needed:
            if name not in table.columns:
                raise UserError(
                    f"{table.path} row 1 has no column {name!r}, which {first.path} has: give both files the same "
                    "columns."
                )
