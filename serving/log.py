"""Logs one JSON line per request and event, without texts."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone

logger = logging.getLogger("serving")


@dataclass
class Trace:
    """Model, counts and times (in seconds) of one request, for its log line, headers and metrics."""

    model: str | None = None
    task: str | None = None
    texts: int = 0
    characters: int = 0  # or token ids
    tokens: int = 0
    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


# The trace of the request that the current asyncio task handles.
current_trace: ContextVar[Trace] = ContextVar("current_trace")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, message, and the fields given by `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging() -> None:
    """Writes this package's and uvicorn's records to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name, level in (("serving", logging.INFO), ("uvicorn", logging.WARNING)):
        chosen = logging.getLogger(name)
        chosen.handlers, chosen.propagate = [handler], False
        chosen.setLevel(level)
