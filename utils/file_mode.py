"""Permissions of files that a library writes."""

from __future__ import annotations

import os
from pathlib import Path


def follow_umask(path: Path) -> None:
    """Gives a file the permissions of any new file; safetensors writes its files for their owner only."""
    mask = os.umask(0o077)  # reading it means setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)
