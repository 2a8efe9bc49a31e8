"""Prints warnings for the user."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from utils.errors import printable


def warn(sentence: str) -> None:
    """Prints one warning on standard error, in the first process of a job only."""
    if int(os.environ.get("RANK", "0")) <= 0:  # importing OneFlow without a launcher sets RANK to -1
        with suppress(OSError):  # standard error is closed
            print(f"warning: {printable(sentence)}", file=sys.stderr)
