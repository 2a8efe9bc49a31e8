"""This process's rank and the job's size, from the launcher's environment variables."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's rank; 0 if there is only one process."""
    return max(0, int(os.environ.get("RANK", "0")))  # importing OneFlow without a launcher sets RANK to -1


def size() -> int:
    """The number of ranks in the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))
