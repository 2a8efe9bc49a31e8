"""JSON files, with messages for those who have to mend them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import UserError

_MOST_SETTINGS_BYTES = 10 << 20


def read_json(path: str | Path, flag_name: str = "") -> Any:
    """A JSON file's content; raises UserError, which begins with the flag's name, where it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{flag_name}{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag_name}{path} is not JSON: {error}.") from None


def read_settings(path: str | Path, flag_name: str = "") -> dict[str, Any]:
    """The object in a small JSON file, such as config.json; raises UserError for anything else."""
    path = Path(path)
    if path.is_file() and path.stat().st_size > _MOST_SETTINGS_BYTES:
        raise UserError(f"{flag_name}{path} is too large for a file of settings: name another one.")
    content = read_json(path, flag_name)
    if not isinstance(content, dict):
        raise UserError(f"{flag_name}{path} must hold one JSON object.")
    return content
