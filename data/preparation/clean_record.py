"""A record of what `prepare_data.py clean` did to the text in a directory.

The record is stored next to the directory, because every file in the directory counts as text.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.atomic_files import write_atomically


def write_clean_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Write the record of a directory, with the sizes of its files, if permissions allow it."""
    with suppress(OSError):  # the text is complete without it
        write_atomically(_path(directory), json.dumps({**content, "sizes": _text_sizes(directory)}).encode())


def read_clean_record(directory: Path) -> dict[str, Any]:
    """The record of a directory; {} if there is none or the text has changed."""
    try:
        content: dict[str, Any] = json.loads(_path(directory).read_bytes())
        return content if content["sizes"] == _text_sizes(directory) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _path(directory: Path) -> Path:
    directory = directory.resolve()
    return directory.parent / f".{directory.name}.clean.json"


def _text_sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob("text-*.txt")}
