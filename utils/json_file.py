"""Reads JSON files that users write, and names what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import UserError

_MOST_SETTINGS_BYTES = 10 << 20


def read_json(path: str | Path, flag_name: str = "") -> Any:
    """The content of a JSON file; raises UserError if the file cannot be read or is not JSON.

    Args:
        path: the file.
        flag_name: the beginning of error messages, such as "--config ".
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{flag_name}{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag_name}{path} is not JSON: {error}.") from None


def read_settings(path: str | Path, flag_name: str = "") -> dict[str, Any]:
    """The object in a small JSON file such as config.json; raises UserError for anything else.

    The arguments are those of `read_json`.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > _MOST_SETTINGS_BYTES:
        raise UserError(
            f"{flag_name}{path} is larger than {_MOST_SETTINGS_BYTES >> 20} MB, too large for a file of settings: name "
            "another file."
        )
    content = read_json(path, flag_name)
    if not isinstance(content, dict):
        raise UserError(f"{flag_name}{path} must contain one JSON object.")
    return content
