"""Text in, sentences out: input files of several formats, cut into pieces at the borders of documents.

Plain text has a sentence (or a paragraph) per line and a blank line between documents; WikiExtractor's output has
`<doc …>` markup; JSON lines have one object per document. What a file is, its beginning tells. Compressed files and
standard input are first unpacked into the work directory, so that everything later can start in a file's middle.
"""

import bz2
import glob
import gzip
import html
import json
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import zstandard

from configs.cli import warn
from configs.prepare import CleanConfig, TextFlags, WorkFlags
from data.duplicates import hash_texts, mark_duplicates
from data.pieces import Result, check_finished, discarded_on_mistake, finish, open_work, run_pieces, writing_to
from utils.errors import UserError

Document = list[str]  # its sentences

SMALLEST_PIECE = 1 << 18  # bytes
MAX_LINE = 1 << 16  # a longer line is cut at a space: no sentence is that long
_BLOCK = 1 << 20
_COMPRESSED = {".gz", ".bz2", ".zst"}
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")
_DOCUMENT_START = {"text": _BLANK_LINE, "wiki": re.compile(rb"\n(?=<doc )"), "jsonl": re.compile(rb"\n")}


class Span(NamedTuple):
    """Whole documents: the bytes of a file from `start` to before `end`."""

    file: str
    start: int
    end: int
    format: str  # "text" | "wiki" | "jsonl"


# ---- which files, and what is in them -------------------------------------------------------------------------------


def input_files(patterns: Sequence[str], flag: str = "input_file") -> list[Path]:
    """The files that paths, globs and directories stand for, each once, those of one pattern in the order of names.

    Raises:
        UserError: a pattern stands for nothing, or for the unfinished output of `prepare_data.py clean`.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if pattern == "-":
            found = [path]
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path))
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
        if not found:
            problem = "holds no file" if path.is_dir() else "does not exist"
            raise UserError(f"--{flag} {pattern} {problem}; give paths, globs or directories of text files.")
        files.update(dict.fromkeys(found))
    for directory in {file.parent for file in files}:
        check_finished(directory)
    return list(files)


def _is_hidden(file: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(directory).parts)


def input_identity(files: Sequence[Path], spooled: Path) -> list[list[Any]]:
    """What tells one input from another: names, sizes and times; of standard input, which is kept in `spooled`, its
    size and checksum."""
    return [
        _spool(spooled) if str(file) == "-" else [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
    ]


def _spool(target: Path) -> list[Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = checksum = 0
    try:
        with target.open("wb") as sink:
            while data := sys.stdin.buffer.read(_BLOCK):
                sink.write(data)
                size, checksum = size + len(data), zlib.crc32(data, checksum)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return ["-", size, checksum]


def unpack(work: Path, files: Sequence[Path]) -> list[Path]:
    """Replaces compressed files and standard input by plain files in the work directory, each written once."""
    plain = []
    for number, file in enumerate(files):
        if file.suffix not in _COMPRESSED and str(file) != "-":
            plain.append(file)
            continue
        target = _unpacked_file(work, number)
        if not target.exists():
            temporary = target.with_suffix(".tmp")
            try:
                with temporary.open("wb") as sink:
                    _unpack_file(file, sink)
            except (EOFError, ValueError, OSError, zlib.error, zstandard.ZstdError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
                    raise
                raise UserError(f"{file} cannot be unpacked: {error}.") from None
            temporary.rename(target)
        plain.append(target)
    return plain


def _unpacked_file(work: Path, number: int) -> Path:
    return work / f"input-{number:06d}"


@contextmanager
def unpacked(files: Sequence[Path], directory: Path) -> Iterator[list[Path]]:
    """`unpack` into a directory beside the result that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=directory) as work:
        yield unpack(Path(work), files)


def _unpack_file(file: Path, sink: BinaryIO) -> None:
    if str(file) == "-":
        shutil.copyfileobj(sys.stdin.buffer, sink, _BLOCK)
    elif file.suffix != ".zst":
        with gzip.open(file, "rb") if file.suffix == ".gz" else bz2.open(file, "rb") as source:
            shutil.copyfileobj(source, sink, _BLOCK)
    else:
        with file.open("rb") as packed:
            data = packed.read(_BLOCK)
            while data:  # frame by frame: the library's own reader does not notice that a file is cut short
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                while not frame.eof:
                    if not data:
                        raise EOFError("it is cut short")
                    sink.write(frame.decompress(data))
                    data = frame.unused_data or packed.read(_BLOCK)


def detect_format(file: Path, text_field: str) -> str:
    """ "text", "wiki" or "jsonl", by the first 64 KB; raises UserError for what is no text."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError as error:
        raise UserError(f"--input_file {file} cannot be read: {error.strerror}.") from None
    decoded = head.decode("utf-8", "replace")
    if b"\0" in head or decoded.count("\ufffd") > max(8, len(decoded) // 20):
        raise UserError(f"--input_file {file} is not UTF-8 text; convert it first, or name other files.")
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith("<doc "):
        return "wiki"
    if start.startswith("{"):
        line = start.split("\n", 1)[0]
        try:
            if text_field not in json.loads(line):
                raise UserError(f"--input_file {file} holds JSON lines without {text_field!r}; give --text_field.")
            return "jsonl"
        except ValueError:
            if len(line) == len(start) and f'"{text_field}"' in start:
                return "jsonl"  # the first line is longer than what was looked at
    return "text"


# ---- pieces ---------------------------------------------------------------------------------------------------------


def plan_spans(
    files: Sequence[Path], text_field: str, piece_bytes: int, most: int, *, whole_files: bool = False
) -> list[list[Span]]:
    """Groups the documents of all files into pieces of about `piece_bytes`.

    A document whose rest is longer than `most` bytes is cut, at a line's end if it has one near. With `whole_files` a
    file of plain text is one document.
    """
    pieces: list[list[Span]] = [[]]
    room = piece_bytes
    for file in files:
        format = detect_format(file, text_field)
        size = file.stat().st_size
        start = 0
        while start < size:
            fits = size - start <= (most if whole_files and format == "text" else room)
            end = size if fits else _next_document(file, start + room, size, format, most)
            pieces[-1].append(Span(str(file), start, end, format))
            room -= end - start
            start = end
            if room <= 0:
                pieces.append([])
                room = piece_bytes
    if not pieces[-1]:
        pieces.pop()
    return pieces


def _next_document(file: Path, position: int, size: int, format: str, most: int) -> int:
    """Where the first document after `position` begins, or where to cut one that goes on for more than `most` bytes."""
    window = b""
    with file.open("rb") as stream:
        stream.seek(position - 1)
        while len(window) < min(most, size - position + 1):
            window += stream.read(min(max(len(window), _BLOCK // 16), most - len(window)))
            match = _DOCUMENT_START[format].search(window)
            if match and (match.end() < len(window) or len(window) >= most):
                return position - 1 + match.end()
    if position - 1 + len(window) >= size:
        return size
    for border in (rb"\n", rb"\s", rb"(?=[^\x80-\xBF])"):  # the last one: between two characters of UTF-8
        if match := re.compile(border).search(window, 1):
            return position - 1 + match.end()
    return position - 1 + len(window)


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
        if b"\0" in data:
            raise UserError(f"--input_file {span.file} is not text: it holds NUL bytes; name other files.")
        content = _decode(data, span).removeprefix("\ufeff")
        if span.format == "wiki":
            documents = _wiki_documents(content, text.language)
        elif span.format == "jsonl":
            documents = _json_documents(content, text, span)
        elif whole_files:
            paragraphs = re.split(r"\n\s*\n", content)
            documents = iter([[s for p in paragraphs for s in split_sentences(" ".join(p.split()), text.language)]])
        else:
            documents = _plain_documents(content, text.language if split else None)
        yield from (document for document in documents if document)


def _decode(data: bytes, span: Span) -> str:
    """The text without what is no UTF-8, of which there may be a little."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        content = data.decode("utf-8", "ignore")
    lost = len(data) - len(content.encode())
    if lost > max(8, len(data) // 100):
        raise UserError(f"--input_file {span.file} is not UTF-8 text; convert it first, or name other files.")
    if lost > 6:  # a document that is too long for one piece may be cut amid a character
        warn(f"{span.file}: {lost} bytes between {span.start} and {span.end} are not UTF-8, and left out.")
    return content


def _plain_documents(content: str, language: str | None) -> Iterator[Document]:
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


def _wiki_documents(content: str, language: str) -> Iterator[Document]:
    """Articles without their titles; one that is nothing but a title gives an empty document."""
    for match in _DOC.finditer(content):
        lines = [html.unescape(line).strip() for line in match["text"].split("\n")]
        title = html.unescape(match["title"] or "").strip()
        if lines and lines[0].rstrip(".") == title.rstrip("."):
            del lines[0]
        yield [sentence for line in lines for sentence in split_sentences(line, language)]


def _json_documents(content: str, text: TextFlags, span: Span) -> Iterator[Document]:
    for line in content.split("\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[text.text_field]
        except (ValueError, KeyError, TypeError):
            value = None
        if not isinstance(value, str):
            raise UserError(
                f"--input_file {span.file}: a line between bytes {span.start} and {span.end} is not a JSON object "
                f"with the text in {text.text_field!r}, or longer than what is read at once (a 32nd of --memory_mb): "
                f"{line[:60]!r}."
            )
        value = value.encode("utf-8", "replace").decode()  # JSON can write half a character
        yield [s for paragraph in value.split("\n") for s in split_sentences(paragraph.strip(), text.language)]


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


# ---- prepare_data.py clean ------------------------------------------------------------------------------------------


def open_input(
    text: TextFlags, work_flags: WorkFlags, output_dir: Path, plan: dict[str, Any], *, whole_files: bool = False
) -> tuple[Path, list[list[Span]]] | None:
    """The work directory and the pieces of the input; None if the output is complete already.

    The pieces follow from the input and `--memory_mb` alone, and with them everything that is derived from a piece's
    number.
    """
    files = input_files(text.input_file)
    inside = next((file for file in files if file.resolve().parent == output_dir.resolve()), None)
    if inside:
        raise UserError(f"--output_dir {output_dir} holds the input {inside}: name another directory.")
    spooled = output_dir / ".stdin"
    with writing_to(output_dir):
        plan = {**plan, "input": input_identity(files, spooled)}
    plan |= {"text_field": text.text_field, "language": text.language, "memory_mb": work_flags.memory_mb}
    try:
        work = open_work(output_dir, plan, overwrite=work_flags.overwrite_output_dir)
        if work is None:
            return None
        if spooled.exists():
            spooled.rename(_unpacked_file(work, files.index(Path("-"))))
    finally:
        if spooled.exists():
            spooled.unlink()
    with discarded_on_mistake(work):
        pieces = _plan(unpack(work, files), text, work_flags, whole_files)
    return work, pieces


def _plan(files: Sequence[Path], text: TextFlags, work_flags: WorkFlags, whole_files: bool = False) -> list[list[Span]]:
    total = sum(file.stat().st_size for file in files)
    largest = (work_flags.memory_mb << 20) // 32
    pieces = plan_spans(
        files, text.text_field, min(max(total // 64, SMALLEST_PIECE), largest), largest, whole_files=whole_files
    )
    if not pieces:
        raise UserError(f"--input_file {' '.join(text.input_file)}: nothing but empty files.")
    return pieces


def span_bytes(pieces: Sequence[Sequence[Span]]) -> list[int]:
    """How large each piece is."""
    return [sum(span.end - span.start for span in piece) for piece in pieces]


def clean(config: CleanConfig) -> None:
    """`prepare_data.py clean`: any text becomes text files, a sentence per line, a blank line between documents."""
    output_dir = Path(config.output_dir)
    opened = open_input(config.text, config.work, output_dir, _outcome(config), whole_files=config.documents == "file")
    assert opened is not None  # its output has no dataset.json
    work, pieces = opened
    with discarded_on_mistake(work):
        _clean(config, work, pieces)


def _outcome(config: CleanConfig) -> dict[str, Any]:
    return {"command": "clean", "documents": config.documents, "remove_duplicates": config.remove_duplicates}


def _clean(config: CleanConfig, work: Path, pieces: Sequence[Sequence[Span]]) -> None:
    output_dir = Path(config.output_dir)
    sizes = span_bytes(pieces)
    results = run_pieces(
        work, "clean", _clean_piece, [(piece, config) for piece in pieces], flags=config.work, sizes=sizes, unit="B"
    )
    if not sum(result["documents"] for result in results):
        raise UserError(f"--input_file {' '.join(config.text.input_file)} holds no text.")
    finished = "text"
    if config.remove_duplicates != "none":
        found = {}
        for kind in _KINDS:
            hashes, marks = ([work / f"{kind}-{name}-{n:05d}" for n in range(len(pieces))] for name in ("hash", "mark"))
            found[kind] = mark_duplicates(hashes, marks) if config.remove_duplicates in (kind, "both") else 0
        finished = "unique"
        results = run_pieces(
            work, "unique", _remove_duplicates, [(config.remove_duplicates,)] * len(pieces),
            flags=config.work, sizes=sizes, unit="B",
        )  # fmt: skip
        print(f"removed {found['documents']:,} duplicate documents and {found['lines']:,} duplicate lines")
    for number, result in enumerate(results):
        file = work / f"{finished}-{number:05d}.txt"
        if result["documents"] and file.exists():  # not moved before an interruption
            file.rename(output_dir / f"text-{number:05d}.txt")
    finish(output_dir)
    documents, sentences = (sum(result[key] for result in results) for key in ("documents", "sentences"))
    if documents == 1:
        warn("the input is a single document; next-sentence prediction needs several, with a blank line between them.")
    print(f"{documents:,} documents with {sentences:,} sentences in {output_dir}")


_KINDS = ("documents", "lines")


def _clean_piece(work: Path, index: int, piece: Sequence[Span], config: CleanConfig) -> Result:
    documents = read_documents(piece, config.text, split=True, whole_files=config.documents == "file")
    if config.remove_duplicates == "none":
        return _write_documents(work / f"text-{index:05d}.txt", documents)
    hashes: dict[str, list[np.ndarray]] = {kind: [] for kind in _KINDS}

    def noted() -> Iterator[Document]:
        for document in documents:
            hashes["documents"].append(hash_texts(["\n".join(document)]))
            hashes["lines"].append(hash_texts(document))
            yield document

    result = _write_documents(work / f"text-{index:05d}.txt", noted())
    for kind, values in hashes.items():
        (work / f"{kind}-hash-{index:05d}").write_bytes(b"".join(value.tobytes() for value in values))
    return result


def _remove_duplicates(work: Path, index: int, which: str) -> Result:
    marks = {kind: np.fromfile(work / f"{kind}-mark-{index:05d}", bool) for kind in _KINDS if which in (kind, "both")}

    def kept() -> Iterator[Document]:
        line = 0
        with (work / f"text-{index:05d}.txt").open(encoding="utf-8", newline="\n") as file:
            content = file.read()
        for number, document in enumerate(document for document in _plain_documents(content, None) if document):
            lines = document
            if "lines" in marks:
                dropped = marks["lines"][line : line + len(document)]
                lines = [text for text, drop in zip(document, dropped, strict=True) if not drop]
            line += len(document)
            if lines and not ("documents" in marks and marks["documents"][number]):
                yield lines

    return _write_documents(work / f"unique-{index:05d}.txt", kept())


def _write_documents(target: Path, documents: Iterable[Document]) -> Result:
    count = sentences = 0
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(("\n" if count else "") + "\n".join(document) + "\n")
            count += 1
            sentences += len(document)
    return {"documents": count, "sentences": sentences}
