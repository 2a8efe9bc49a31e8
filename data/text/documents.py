"""Text in, sentences out: input files of several formats, cut into pieces at the borders of documents.

Plain text has a sentence (or a paragraph) per line and a blank line between documents; WikiExtractor's output has
`<doc …>` markup; JSON lines have one object per document. What a file is, its beginning tells. Compressed files and
standard input are first unpacked into the work directory, so that everything later can start in a file's middle.
"""

import fcntl
import glob
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.prepare import TextFlags, WorkFlags
from data.preparation.pieces import check_finished, discarded_on_mistake, lock, open_work, writing_to
from data.text.unpacking import copy_json_text, is_stream, spool, unpack, unpacked_file
from utils.errors import UserError
from utils.messages import warn

Document = list[str]  # its sentences

SMALLEST_PIECE = 1 << 18  # bytes
MAX_LINE = 1 << 16  # a longer line is cut at a space: no sentence is that long
_BLOCK = 1 << 20
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")
_DOCUMENT_START = {
    "text": _BLANK_LINE, "wiki": re.compile(rb"\n(?=<doc )"), "jsonl": re.compile(rb"\n"), "prose": None
}  # fmt: skip
_JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.\w+)?$")


class Span(NamedTuple):
    """Whole documents: the bytes of a file from `start` to before `end`."""

    file: str
    start: int
    end: int
    format: str  # "text" | "wiki" | "jsonl" | "prose": a document or a part of one, a paragraph per line
    name: str = ""  # what messages call the file


# ---- which files, and what is in them -------------------------------------------------------------------------------


def input_files(patterns: Sequence[str], flag: str = "input_file", *, output_dir: Path | None = None) -> list[Path]:
    """The files that paths, globs and directories stand for, each once, those of one pattern in the order of names.

    Args:
        output_dir: what lies in it is no input.

    Raises:
        UserError: a pattern stands for nothing, or for the unfinished output of `prepare_data.py clean`.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if pattern == "-":
            found = [path]
        elif path.is_dir():
            found = sorted(_files_below(path))
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
        if not found:
            problem = "holds no file" if path.is_dir() else "does not exist"
            raise UserError(f"--{flag} {pattern} {problem}; give paths, globs or directories of text files.")
        files.update(dict.fromkeys(found))
    output = output_dir and output_dir.resolve()
    chosen = [file for file in files if file.resolve().parent != output]
    for directory in {file.parent for file in chosen}:
        check_finished(directory)
    return chosen


def _files_below(directory: Path) -> Iterator[Path]:
    """The files of a directory and of those in it, without hidden ones; raises OSError where one cannot be read."""
    for entry in directory.iterdir():
        if not entry.name.startswith("."):
            if entry.is_file():
                yield entry
            elif entry.is_dir() and not entry.is_symlink():
                yield from _files_below(entry)


def detect_format(file: Path, text_field: str, name: str = "") -> str:
    """What a file holds, by its beginning: "text", "wiki" or "jsonl".

    Raises:
        UserError: it is no text; the message calls it `name`.
    """
    named = f"--input_file {name or file}"
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        raise UserError(f"{named} cannot be read: {error.strerror}.") from None
    decoded = head.decode("utf-8", "replace")
    if b"\0" in head or decoded.count("\ufffd") > max(8, len(decoded) // 20):
        raise UserError(f"{named} is not UTF-8 text; convert it first, or name other files.")
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith("<doc "):
        return "wiki"
    if start.startswith("{"):
        try:
            first = json.loads(start.split("\n", 1)[0])
        except (ValueError, RecursionError):  # it is longer than what was looked at, or no JSON
            with file.open("rb") as stream:
                stream.seek(head.index(b"{"))
                if copy_json_text(stream, text_field):
                    return "jsonl"
        else:
            if text_field in first:
                return "jsonl"
            raise UserError(f"{named} holds JSON lines without {text_field!r}; give --text_field.")
    if start.startswith(("{", "[")) and _JSON_NAME.search(name or file.name):
        raise UserError(f"{named} is JSON, but not a line for each document: convert it to JSON lines.")
    return "text"


# ---- pieces ---------------------------------------------------------------------------------------------------------


def plan_spans(
    files: Mapping[Path, str], text_field: str, piece_bytes: int, most: int, work: Path, *, whole_files: bool = False
) -> list[list[Span]]:
    """Groups the documents of all files into pieces of about `piece_bytes`.

    A document whose rest is longer than `most` bytes is cut, at a line's end if it has one near; the text of a JSON
    line that long is first copied into the work directory. With `whole_files` a file of plain text is one document.

    Args:
        files: {file: what messages call it}.
    """
    pieces: list[list[Span]] = [[]]
    room = piece_bytes
    todo = [
        Span(str(file), 0, file.stat().st_size, detect_format(file, text_field, name), name)
        for file, name in files.items()
    ][::-1]
    copies = 0
    while todo:
        rest = todo.pop()
        end: int | None = rest.end
        if rest.end - rest.start > (most if whole_files and rest.format == "text" else room):
            end = _next_document(rest, rest.start + room, most)
        if end is None:
            copy = work / f"line-{copies:06d}"
            copies += 1
            begin, end = _copy_line(rest, rest.start + room, text_field, copy)
            todo.append(rest._replace(start=end))
            todo.append(Span(str(copy), 0, copy.stat().st_size, "prose", rest.name))
            todo.append(rest._replace(end=begin))
            continue
        if end > rest.start:
            pieces[-1].append(rest._replace(end=end))
            room -= end - rest.start
        if end < rest.end:
            todo.append(rest._replace(start=end))
        if room <= 0:
            pieces.append([])
            room = piece_bytes
    if not pieces[-1]:
        pieces.pop()
    return pieces


def _next_document(span: Span, position: int, most: int) -> int | None:
    """Where the first document after `position` begins, or where to cut one that goes on for more than `most` bytes;
    a line of JSON cannot be cut (None)."""
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
    for border in (rb"\n", rb"\s", rb"(?=[^\x80-\xBF])"):  # the last one: between two characters of UTF-8
        if match := re.compile(border).search(window, 1):
            return position - 1 + match.end()
    return position - 1 + len(window)


def _copy_line(span: Span, position: int, text_field: str, target: Path) -> tuple[int, int]:
    """Copies the text of the JSON line around `position`; where the line begins, and where the next one does."""
    with open(span.file, "rb") as source:
        source.seek(span.start)
        begin = span.start + source.read(position - span.start).rfind(b"\n") + 1
        source.seek(begin)
        with target.open("wb") as sink:
            if not copy_json_text(source, text_field, sink):
                source.seek(begin)
                raise _bad_json(span, text_field, source.read(100).decode("utf-8", "replace"))
        source.seek(end := position)
        while block := source.readline(_BLOCK):
            end += len(block)
            if block.endswith(b"\n"):
                break
    return begin, end


def _bad_json(span: Span, text_field: str, line: str) -> UserError:
    return UserError(
        f"--input_file {span.name}: a line between bytes {span.start} and {span.end} is not a JSON object with the "
        f"text in {text_field!r}: {line[:60]!r}."
    )


def read_documents(
    spans: Sequence[Span], text: TextFlags, *, split: bool = False, whole_files: bool = False
) -> Iterator[Document]:
    """Yields the documents of a piece; documents without a sentence are left out.

    Args:
        split: split the lines of plain text into sentences too (those of the other formats always are).
        whole_files: a file of plain text is one document, whose paragraphs' lines are joined.

    Raises:
        UserError: a line of JSON is damaged.
    """
    for span in spans:
        with open(span.file, "rb") as stream:
            stream.seek(span.start)
            data = stream.read(span.end - span.start)
        if b"\0" in data and span.format != "prose":
            raise UserError(f"--input_file {span.name} is not text: it holds NUL bytes; name other files.")
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


def _decode(data: bytes, span: Span) -> str:
    """The text without what is no UTF-8, of which there may be a little."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        content = data.decode("utf-8", "ignore")
    lost = len(data) - len(content.encode())
    if lost > max(8, len(data) // 100):
        raise UserError(f"--input_file {span.name} is not UTF-8 text; convert it first, or name other files.")
    if lost > 6:  # a document that is too long for one piece may be cut amid a character
        warn(f"{span.name}: {lost} bytes between {span.start} and {span.end} are not UTF-8, and left out.")
    return content


def plain_documents(content: str, language: str | None = None) -> Iterator[Document]:
    """Lines between blank lines; split into sentences if a language is given."""
    document: Document = []
    for line in content.split("\n"):
        line = line.strip()
        if not line:
            yield document
            document = []
        elif language:
            document.extend(split_sentences(line, language))
        else:
            document.extend(_short_lines(line))
    yield document


_DOC = re.compile(
    r"<doc [^>\n]*?(?:title=\"(?P<title>[^\n]*?)\")?>\r?\n(?P<text>.*?)(?:^</doc>|\Z)", re.DOTALL | re.MULTILINE
)


_DOC_EDGE = re.compile(r"^</?doc\b", re.MULTILINE)


def _wiki_documents(content: str, language: str) -> Iterator[Document]:
    """Articles without their titles; one that is nothing but a title gives an empty document."""
    rest = _DOC_EDGE.split(content, 1)[0]  # of an article that is too long for one piece
    yield _sentences_of(map(html.unescape, rest.split("\n")), language)
    for match in _DOC.finditer(content):
        lines = [html.unescape(line).strip() for line in match["text"].split("\n")]
        title = html.unescape(match["title"] or "").strip()
        if lines and lines[0].rstrip(".") == title.rstrip("."):
            del lines[0]
        yield _sentences_of(lines, language)


def _json_documents(content: str, text: TextFlags, span: Span) -> Iterator[Document]:
    for line in content.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[text.text_field]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _bad_json(span, text.text_field, line) from None
        if not isinstance(value, str | None):
            raise _bad_json(span, text.text_field, line)
        value = (value or "").encode("utf-8", "replace").decode()  # JSON can write half a character
        yield _sentences_of(value.split("\n"), text.language)


def _sentences_of(paragraphs: Iterable[str], language: str) -> Document:
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph.strip(), language)]


# An abbreviation that never ends a sentence, or the number of a list's item: the splitter stops at some.
_UNFINISHED = re.compile(r"(?:^\(?\d{1,3}[.)]|^[A-Za-z][.)]|\b(?:e\.g|i\.e|cf|vs|viz|Fig|No|pp?|approx)\.)$")


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of one paragraph, stripped, none empty."""
    import sentencex

    sentences: list[str] = []
    joined = ""
    for line in _short_lines(paragraph):
        for part in map(str.strip, sentencex.segment(language, line)):
            if joined.endswith("No.") and not part[:1].isdigit():  # an answer, not "No. 5"
                sentences.append(joined)
                joined = ""
            joined = f"{joined} {part}".strip()
            if joined and not _UNFINISHED.search(joined):
                sentences.append(joined)
                joined = ""
    return [*sentences, joined] if joined else sentences


def _short_lines(line: str) -> Iterator[str]:
    """The line, or pieces of at most MAX_LINE characters, cut at spaces where there are some."""
    while len(line) > MAX_LINE:
        cut = line.rfind(" ", 1, MAX_LINE)
        cut = cut if cut > 0 else MAX_LINE
        yield line[:cut]
        line = line[cut:].lstrip()
    yield line


# ---- the input of a command -----------------------------------------------------------------------------------------


def open_input(
    text: TextFlags, work_flags: WorkFlags, output_dir: Path, plan: dict[str, Any], *, whole_files: bool = False,
    piece_bytes: int | None = None, decides: Mapping[str, str] | None = None,
) -> tuple[Path, list[list[Span]]] | None:  # fmt: skip
    """The work directory (`open_work`) and the pieces of the input; None if the output is complete already.

    The pieces follow from the input and `--memory_mb` alone (and `piece_bytes`, about their size), and with them
    everything that is derived from a piece's number.
    """
    for named in (Path(pattern).resolve() for pattern in text.input_file if pattern != "-"):
        if output_dir.resolve() in (named, named.parent):
            raise UserError(f"--output_dir {output_dir} holds the input {named}: name another directory.")
    files = input_files(text.input_file, output_dir=output_dir)
    spooled = {number: output_dir / f".stdin-{number}" for number, file in enumerate(files) if is_stream(file)}
    if spooled:
        with writing_to(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
            for file in spooled.values():
                lock(file, output_dir, fcntl.flock)
    try:
        identity = [
            spool(file, spooled[number]) if number in spooled else _identity(file) for number, file in enumerate(files)
        ]
        plan = {**plan, "input": identity, "text_field": text.text_field, "language": text.language}
        plan |= {"memory_mb": work_flags.memory_mb}
        work = open_work(output_dir, plan, overwrite=work_flags.overwrite_output_dir, decides=decides)
        if work is None:
            return None
        for number, file in spooled.items():
            file.rename(unpacked_file(work, number))
    finally:
        for file in spooled.values():
            file.unlink(missing_ok=True)
    with discarded_on_mistake(work):
        plain = unpack(work, files, work_flags.num_workers)
        longest = (work_flags.memory_mb << 20) // 32
        total = sum(file.stat().st_size for file in plain)
        size = piece_bytes or min(max(total // 64, SMALLEST_PIECE), longest)
        pieces = plan_spans(plain, text.text_field, size, longest, work, whole_files=whole_files)
        if not pieces:
            raise UserError(f"--input_file {' '.join(text.input_file)}: nothing but empty files.")
    return work, pieces


def _identity(file: Path) -> list[Any]:
    """What tells a file from another."""
    return [str(file), file.stat().st_size, file.stat().st_mtime_ns]


def span_bytes(pieces: Sequence[Sequence[Span]]) -> list[int]:
    """How large each piece is."""
    return [sum(span.end - span.start for span in piece) for piece in pieces]
