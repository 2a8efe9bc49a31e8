"""The checkpoints of a run: directories named `checkpoint-STEP`, and the file `latest`, which names the newest.

Runs that select the best checkpoint keep it in the directory `best`.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

LATEST, BEST = "latest", "best"
_NAME, _STEP_NAME = re.compile(r"checkpoint-(\d+)"), re.compile(r"(.+)-step(\d{1,18})")


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


def checkpoint_step(checkpoint: Path) -> int:
    """The number of updates before a `checkpoint-STEP`; -1 for other names."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def checkpoint_of_run(path: str | Path) -> Path:
    """Resolves `DIR/RUN-stepN`, the form of AWS's scripts, to checkpoint N of run RUN; other paths are returned as is.

    The run's directory is `DIR/RUN`, or DIR or a directory in it whose run.json has this --run_name.
    """
    path = Path(path)
    match = _STEP_NAME.fullmatch(path.name)
    if not match or path.exists():
        return path
    run, checkpoint = match[1], f"checkpoint-{int(match[2])}"
    within = sorted(each for each in path.parent.iterdir() if each.is_dir()) if path.parent.is_dir() else []
    named = [each for each in (path.parent, *within) if _run_name(each) == run]
    return next((each / checkpoint for each in (path.parent / run, *named) if (each / checkpoint).is_dir()), path)


def _run_name(directory: Path) -> Any:
    try:
        settings = json.loads((directory / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return settings.get("run_name") if isinstance(settings, dict) else None


def phase_directory(directory: str | Path, number: int) -> Path:
    """The output directory of phase `number`, counted from 1, of a run with several phases."""
    return Path(directory) / f"phase{number}"


def model_directory(path: str | Path) -> Path:
    """The model directory for a path: the path itself, or the newest checkpoint of a run or of its last phase."""
    path = checkpoint_of_run(path)
    phases = itertools.takewhile(Path.is_dir, (phase_directory(path, number) for number in itertools.count(1)))
    found = [newest_checkpoint(directory) for directory in (path, *phases)]
    return path if (path / "config.json").exists() else next((each for each in reversed(found) if each), path)
