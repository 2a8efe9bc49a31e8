"""`prepare_data.py clean`: converts any text to text files, optionally without duplicates."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from configs.cli import to_flat_dict
from configs.prepare import CleanConfig, TextFlags, WorkFlags
from data.preparation.clean_record import read_clean_record, write_clean_record
from data.preparation.duplicates import hash_texts, mark_duplicates
from data.preparation.inputs import open_input
from data.preparation.pieces import Result, run_pieces
from data.preparation.work_directory import discarded_on_mistake, finish, plan_sha256
from data.text.documents import Document, plain_documents, read_documents
from data.text.spans import TEXT_MARK, Span, looks_foreign, span_bytes
from utils.atomic_files import write_atomically
from utils.errors import UserError
from utils.messages import warn

_KINDS = ("documents", "lines")
_REMOVED = "removed.json"
# BERT drops these control characters. Some of them would make a text file look like a binary file.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


def clean(config: CleanConfig) -> None:
    """Write text files with a sentence per line and a blank line between documents.

    Raises:
        UserError: there is no usable input, or the output directory contains the results of other flags.
    """
    output_dir = Path(config.output_dir)
    whole_files = config.documents == "file"
    plan = {"command": "clean", "documents": config.documents, "remove_duplicates": config.remove_duplicates}
    opened = open_input(config.text, config.work, output_dir, plan, whole_files=whole_files)
    if opened is None:
        print(f"{output_dir} is already complete")
        return
    work, pieces = opened
    with discarded_on_mistake(work):
        files, results = write_text(work, pieces, config.text, config.work, config.remove_duplicates, whole_files)
        documents, sentences = (sum(result[key] for result in results) for key in ("documents", "sentences"))
        if not documents:
            raise UserError(f"--input_file {' '.join(config.text.input_file)} contains no text.")
    for number, (file, result) in enumerate(zip(files, results, strict=True)):
        if result["documents"] and file.exists():  # otherwise an interrupted run has moved it
            file.rename(output_dir / f"text-{number:05d}.txt")
    removed = removed_duplicates(work)
    in_all = removed_duplicates(work, *input_directories(pieces))
    write_clean_record(
        output_dir, {"plan_sha256": plan_sha256(work), "removed": in_all, "made_by": to_flat_dict(config)}
    )
    finish(output_dir)
    if config.remove_duplicates != "none":
        print(f"removed {removed['documents']:,} duplicate documents and {removed['lines']:,} duplicate lines")
    if documents == 1:
        warn("the input is a single document; next-sentence prediction needs several, separated by blank lines.")
    print(f"{documents:,} documents with {sentences:,} sentences in {output_dir}")


def write_text(
    work: Path, pieces: Sequence[Sequence[Span]], text: TextFlags, flags: WorkFlags, remove_duplicates: str,
    whole_files: bool = False, *, split: bool = True,
) -> tuple[list[Path], list[Result]]:  # fmt: skip
    """Write the documents of each piece to a text file.

    Args:
        work: the work directory.
        pieces: the input.
        text, whole_files, split: see `read_documents`.
        flags: how the work is done.
        remove_duplicates: "documents", "lines" or "both" removes those equal to an earlier one; "none" keeps all.

    Returns:
        the files, and the number of documents and sentences in each.
    """
    sizes = span_bytes(pieces)
    results = run_pieces(
        work, "clean", _write_piece, [(piece, text, remove_duplicates, whole_files, split) for piece in pieces],
        flags=flags, sizes=sizes, unit="B",
    )  # fmt: skip
    if remove_duplicates == "none":
        return [_text_file(work, number) for number in range(len(pieces))], results
    removed = dict.fromkeys(_KINDS, 0)
    for kind in _KINDS:
        if remove_duplicates in (kind, "both"):
            hashes, marks = ([work / f"{kind}-{name}-{n:05d}" for n in range(len(pieces))] for name in ("hash", "mark"))
            removed[kind] = mark_duplicates(hashes, marks, flags.memory_mb)
    write_atomically(work / _REMOVED, json.dumps(removed).encode())
    results = run_pieces(
        work, "unique", _write_unique, [(remove_duplicates,)] * len(pieces), flags=flags, sizes=sizes, unit="B"
    )
    return [_unique_file(work, number) for number in range(len(pieces))], results


def input_directories(pieces: Sequence[Sequence[Span]]) -> set[Path]:
    """The directories of the input files."""
    return {Path(span.name).parent for piece in pieces for span in piece if span.name != "-"}


def removed_duplicates(work: Path, *inputs: Path) -> dict[str, int]:
    """The numbers of duplicate documents and lines removed here, and earlier by `clean` in the input directories."""
    removed = Counter(dict.fromkeys(_KINDS, 0))
    if (work / _REMOVED).exists():
        removed.update(json.loads((work / _REMOVED).read_bytes()))
    for directory in inputs:
        removed.update(read_clean_record(directory).get("removed", {}))
    return dict(removed)


def _text_file(work: Path, number: int) -> Path:
    return work / f"text-{number:05d}.txt"


def _unique_file(work: Path, number: int) -> Path:
    return work / f"unique-{number:05d}.txt"


def _write_piece(
    work: Path, index: int, piece: Sequence[Span], text: TextFlags, remove_duplicates: str, whole_files: bool,
    split: bool,
) -> Result:  # fmt: skip
    documents = _without_control_characters(read_documents(piece, text, split=split, whole_files=whole_files))
    if remove_duplicates == "none":
        return _write_documents(_text_file(work, index), documents)
    hashes: dict[str, list[np.ndarray]] = {kind: [] for kind in _KINDS}

    def hashed() -> Iterator[Document]:
        for document in documents:
            hashes["documents"].append(hash_texts(["\n".join(document)]))
            hashes["lines"].append(hash_texts(document))
            yield document

    result = _write_documents(_text_file(work, index), hashed())
    for kind, values in hashes.items():
        (work / f"{kind}-hash-{index:05d}").write_bytes(b"".join(value.tobytes() for value in values))
    return result


def _write_unique(work: Path, index: int, which: str) -> Result:
    marks = {kind: np.fromfile(work / f"{kind}-mark-{index:05d}", bool) for kind in _KINDS if which in (kind, "both")}

    def kept() -> Iterator[Document]:
        line = 0
        with _text_file(work, index).open(encoding="utf-8", newline="\n") as file:
            content = file.read().removeprefix(TEXT_MARK)
        for number, document in enumerate(document for document in plain_documents(content) if document):
            lines = document
            if "lines" in marks:
                dropped = marks["lines"][line : line + len(document)]
                lines = [text for text, drop in zip(document, dropped, strict=True) if not drop]
            line += len(document)
            if lines and not ("documents" in marks and marks["documents"][number]):
                yield lines

    return _write_documents(_unique_file(work, index), kept())


def _without_control_characters(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents without control characters, and without lines and documents that are then empty."""
    for document in documents:
        if kept := [line for line in (_CONTROL.sub("", line).strip() for line in document) if line]:
            yield kept


def _write_documents(target: Path, documents: Iterable[Document]) -> Result:
    count = sentences = 0
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            separator = "\n" if count else TEXT_MARK if looks_foreign(document[0]) else ""
            file.write(separator + "\n".join(document) + "\n")
            count += 1
            sentences += len(document)
    return {"documents": count, "sentences": sentences}
