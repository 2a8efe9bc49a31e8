"""Sets the permissions of files that a library writes."""

from __future__ import annotations

import os
from pathlib import Path


def follow_umask(path: Path) -> None:
    """Sets default permissions, because safetensors makes its files readable only by the owner."""
    mask = os.umask(0o077)  # the mask can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)
