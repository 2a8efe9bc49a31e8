"""Reads and writes JSON and text files, with clear error messages."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from utils.atomic_files import write_atomically
from utils.errors import UserError

_MOST_SETTINGS_BYTES = 10 << 20
_MOST_BYTES = 2 << 30
_BLOCK_BYTES = 1 << 20


class TooLargeError(ValueError):
    """A file is larger than the limit."""


def read_text(path: str | Path, most_bytes: int) -> str:
    """A UTF-8 file's content without its byte-order mark.

    Raises:
        OSError: it cannot be read.
        TooLargeError: it has more than `most_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    with Path(path).open("rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
            raise OSError(errno.EINVAL, "it is a device")  # /dev/zero has no end
        content = bytearray()  # grows with the file: one read would allocate as many bytes as it may take
        while len(content) <= most_bytes and (block := file.read(_BLOCK_BYTES)):
            content += block
    if len(content) > most_bytes:
        raise TooLargeError(f"{path} is over {most_bytes >> 20} MB")
    return content.decode("utf-8-sig")


def read_json(path: str | Path, flag_name: str = "", most_bytes: int = _MOST_BYTES) -> Any:
    """A JSON file's content; if it is invalid, raises UserError with the flag's name as a prefix."""
    try:
        return json.loads(read_text(path, most_bytes))
    except OSError as error:
        raise UserError(f"{flag_name}{path} cannot be read: {error.strerror}.") from None
    except TooLargeError:
        raise UserError(f"{flag_name}{path} is larger than {most_bytes >> 20} MB: use another file.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag_name}{path} is not JSON: {error}.") from None


def read_json_object(path: str | Path, most_bytes: int, flag_name: str = "") -> dict[str, Any]:
    """The object in a JSON file; raises UserError for anything else."""
    content = read_json(path, flag_name, most_bytes)
    if not isinstance(content, dict):
        raise UserError(f"{flag_name}{path} must contain one JSON object.")
    return content


def read_settings(path: str | Path, flag_name: str = "") -> dict[str, Any]:
    """The object in a small JSON file, such as config.json; raises UserError for anything else."""
    return read_json_object(path, _MOST_SETTINGS_BYTES, flag_name)


def write_json(path: str | Path, content: Any) -> None:
    """Replaces a file's content with indented JSON."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
