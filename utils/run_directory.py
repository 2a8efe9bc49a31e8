"""Where the checkpoints of a run are: `checkpoint-STEP` directories, the newest of which `latest` names."""

from __future__ import annotations

import re
from pathlib import Path

LATEST = "latest"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = {int(match[1]): path for path in directory.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def newest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint that `latest` names, or the newest complete one."""
    try:
        named = (directory / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        named = ""
    if _NAME.fullmatch(named) and (directory / named).is_dir():
        return directory / named
    complete = checkpoints(directory)
    return complete[-1] if complete else None


def model_directory(path: str | Path) -> Path:
    """The model directory that `path` means: itself, or the newest checkpoint of a run's output directory."""
    path = Path(path)
    return path if (path / "config.json").exists() else newest_checkpoint(path) or path
