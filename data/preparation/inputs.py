"""Finds the input files of a command and divides them into pieces."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.prepare import TextFlags, WorkFlags
from data.preparation.work_directory import (
    check_finished,
    discarded_on_mistake,
    lock_output,
    open_work,
    writing_to,
)
from data.text.spans import Span, plan_spans
from data.text.unpacking import is_stream, spool, unpack, unpacked_file
from utils.errors import UserError

SMALLEST_PIECE = 1 << 18  # bytes


def input_files(patterns: Sequence[str], flag: str = "input_file", *, output_dir: Path | None = None) -> list[Path]:
    """The files that paths, globs and directories match, each once, sorted by name within a pattern.

    Args:
        patterns: the paths, globs and directories.
        flag: the flag with the patterns, for messages.
        output_dir: files in this directory are excluded.

    Raises:
        UserError: a pattern matches nothing, or matches unfinished output of `prepare_data.py clean`.
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
            problem = "contains no file" if path.is_dir() else "does not exist"
            raise UserError(f"--{flag} {pattern} {problem}: pass paths, globs or directories of text files.")
        files.update(dict.fromkeys(found))
    output = output_dir and output_dir.resolve()
    chosen = [file for file in files if file.resolve().parent != output]
    for directory in {file.parent for file in chosen}:
        check_finished(directory)
    return chosen


def _files_below(directory: Path) -> Iterator[Path]:
    """The files below a directory, without hidden ones; raises OSError if a directory cannot be read."""
    for entry in directory.iterdir():
        if not entry.name.startswith("."):
            if entry.is_file():
                yield entry
            elif entry.is_dir() and not entry.is_symlink():
                yield from _files_below(entry)


def open_input(
    text: TextFlags, work_flags: WorkFlags, output_dir: Path, plan: dict[str, Any], *, whole_files: bool = False,
    piece_bytes: int | None = None, last_stages: Mapping[str, str] | None = None,
) -> tuple[Path, list[list[Span]]] | None:  # fmt: skip
    """Open the work directory and cut the input into pieces.

    The pieces, and everything derived from the index of a piece, depend only on the input, `--memory_mb` and
    `piece_bytes`.

    Args:
        text: the input.
        work_flags: how the work is done.
        output_dir: where the results go.
        plan: everything that determines the results, except the input.
        whole_files: treat a plain text file as one document.
        piece_bytes: the size of a piece (default: a 64th of the input, within bounds).
        last_stages: see `open_work`.

    Returns:
        the work directory and the pieces, or None if the output is complete.
    """
    for named in (Path(pattern).resolve() for pattern in text.input_file if pattern != "-"):
        if output_dir.resolve() in (named, named.parent):
            raise UserError(f"--output_dir {output_dir} contains the input {named}: use another directory.")
    files = input_files(text.input_file, output_dir=output_dir)
    spooled = {number: output_dir / f".stdin-{number}" for number, file in enumerate(files) if is_stream(file)}
    if spooled:
        with writing_to(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
            for file in spooled.values():
                lock_output(file, output_dir, inherited=True)
    try:
        identity = [
            spool(file, spooled[number]) if number in spooled else identity_of(file)
            for number, file in enumerate(files)
        ]
        plan = {**plan, "input": identity, "text_field": text.text_field, "language": text.language}
        plan |= {"memory_mb": work_flags.memory_mb}
        work = open_work(output_dir, plan, overwrite=work_flags.overwrite_output_dir, last_stages=last_stages)
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
            raise UserError(f"--input_file {' '.join(text.input_file)}: all files are empty: pass files with text.")
    return work, pieces


def identity_of(file: Path) -> list[Any]:
    """A file's identity, which changes with its content."""
    return [str(file), file.stat().st_size, file.stat().st_mtime_ns]
