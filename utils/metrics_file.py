"""Reads `metrics.jsonl`, the metrics of a run: one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_rows(path: Path, *, missing_ok: bool = False) -> list[dict[str, Any]]:
    """All complete rows of a metrics file; other lines are skipped."""
    if missing_ok and not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [row for line in lines if (row := parse_row(line))]


def parse_row(line: str) -> dict[str, Any] | None:
    """The row in a line; None if the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
