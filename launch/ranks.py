"""This process's place in its job, as the launcher put it into the environment."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's rank, 0 if it runs alone."""
    return max(0, int(os.environ.get("RANK", "0")))  # importing OneFlow without a launcher sets RANK to -1


def size() -> int:
    """The number of ranks in the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))
