"""A preparation's output directory, and the work directory in it, from which an interrupted preparation continues.

The work directory contains the plan (everything that determines the results) and finished pieces. If the same command
is started again, it finds the same plan and continues; a different plan is refused or, on request, replaces it.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.cli import changed_flags
from data.preparation.clean_record import read_clean_record
from data.records.dataset_json import read_dataset_json
from data.records.shards import WORK_DIRECTORY
from utils.atomic_files import LEFTOVER_SUFFIX, write_atomically
from utils.errors import UserError
from utils.file_lock import lock_file
from utils.worker_pool import WorkerLostError

_NOT_WRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL
}  # fmt: skip
# The names of results. Nothing else is ever deleted.
_RESULTS = re.compile(
    r"part-\d+(\.jsonl|\.npy)?|text-\d+\.txt|dataset\.json|offsets\.u64|vocab\.txt"
    r"|tokenizer_config\.json|report\.(html|json)"
    r"|\.work|\..*\.tmp"
)

# Entries of a plan that are no flags.
_NOT_FLAGS = {
    *("command", "input", "input_sha256", "segmentation", "vocab_sha256", "strip_accents", "tokenize_chinese_chars"),
}


def open_work(
    output_dir: Path, plan: Mapping[str, Any], *, overwrite: bool, last_stages: Mapping[str, str] | None = None
) -> Path | None:
    """Make the output directory ready; return the work directory, or None if all work is done.

    Args:
        output_dir: where the results go.
        plan: everything that determines them. An interrupted preparation with the same plan is continued.
        overwrite: delete the results of another plan.
        last_stages: {entry of the plan: the last stage}, for entries that affect only that stage. If only these entries
            differ, an interrupted preparation is also continued, and earlier stages keep their pieces.

    Raises:
        UserError: the directory contains the results of another plan, or cannot be written to.
    """
    work = output_dir / WORK_DIRECTORY
    content = json.dumps(plan, indent=1, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    with writing_to(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if (work / "plan.json").exists() and (work / "plan.json").read_bytes() == content:
            lock_output(work / "lock", output_dir)
            _remove_leftovers(output_dir)
            return work
        if last_stages and _differences(work / "plan.json", content) <= set(last_stages):
            lock_output(work / "lock", output_dir)
            _remove(path for path in results(output_dir) if path != work)
            _remove(path for stage in last_stages.values() for path in work.glob(f"{stage}-*.json"))
            write_atomically(work / "plan.json", content)
            return work
        if not work.exists() and _finished_plan(output_dir) == digest:
            _remove_leftovers(output_dir)
            return None
        if any(path.suffix != LEFTOVER_SUFFIX for path in results(output_dir)) and not overwrite:
            what = "an unfinished preparation with" if work.exists() else "the results of"
            raise UserError(
                f"--output_dir {output_dir} has {what} {_what_differs(output_dir, plan)}; use another directory or "
                "pass --overwrite_output_dir."
            )
        remove_results(output_dir)
        new = work.with_suffix(
            LEFTOVER_SUFFIX
        )  # renamed after the plan is written, so that a work directory always has one
        new.mkdir()
        write_atomically(new / "plan.json", content)
        new.rename(work)
        lock_output(work / "lock", output_dir)
    return work


def finish(output_dir: Path) -> None:
    """Remove the work directory and unfinished files after the results are complete."""
    work = output_dir / WORK_DIRECTORY
    work.rename(work.with_suffix(LEFTOVER_SUFFIX))
    _remove_leftovers(output_dir)


def check_finished(directory: Path) -> None:
    """Raise UserError if a preparation in this directory was interrupted."""
    if (directory / WORK_DIRECTORY).exists():
        raise UserError(f"the preparation of {directory} was interrupted: run it again with the same flags.")


def plan_sha256(work: Path) -> str:
    """The hash of the plan, which is stored in the `dataset.json` of a finished set."""
    return hashlib.sha256((work / "plan.json").read_bytes()).hexdigest()


def _finished_plan(output_dir: Path) -> str | None:
    """The plan hash of the results in a directory."""
    return (read_dataset_json(output_dir) or read_clean_record(output_dir)).get("plan_sha256")


def _differences(plan: Path, content: bytes) -> set[str]:
    """The entries in which a plan differs from the one in a file; {"all"} if the file is missing."""
    if not plan.exists():
        return {"all"}
    old, new = json.loads(plan.read_bytes()), json.loads(content)
    return {name for name in {**old, **new} if old.get(name) != new.get(name)}


def _what_differs(output_dir: Path, plan: Mapping[str, Any]) -> str:
    """What decided the preparation in a directory and is different in a plan, for a message."""
    file = output_dir / WORK_DIRECTORY / "plan.json"
    if file.exists():
        before = json.loads(file.read_bytes())
    else:
        before = (read_dataset_json(output_dir) or read_clean_record(output_dir)).get("made_by", {})
    old, new = _flags_of_plan(before if isinstance(before, dict) else {}), _flags_of_plan(plan)
    changed = changed_flags(old, new)
    if changed:
        return f"other flags: {', '.join(changed)}"
    return "another input or vocabulary" if old.keys() & new.keys() else "other flags or input"


def _flags_of_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for name, value in plan.items():
        flags.update(value if isinstance(value, dict) else {name: value})
    return {name: value for name, value in flags.items() if name not in _NOT_FLAGS}


@contextmanager
def writing_to(output_dir: Path) -> Iterator[None]:
    """Turn errors from an unwritable directory into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise UserError(f"--output_dir {output_dir} cannot be written to: {error.strerror}.") from None


def lock_output(file: Path, output_dir: Path, *, inherited: bool = False) -> None:
    """Keep other processes out of the output directory until this process ends.

    Args:
        file: what is locked; see `lock_file`, also for `inherited`.
        output_dir: the directory, for the message.

    Raises:
        UserError: another process holds the lock.
    """
    if not lock_file(file, inherited=inherited):
        raise UserError(f"another process is using {output_dir}: wait until it ends, or stop it.")


def results(output_dir: Path) -> list[Path]:
    """The files in a directory that preparations wrote, sorted by name."""
    return sorted(path for path in output_dir.iterdir() if _RESULTS.fullmatch(path.name))


def remove_results(output_dir: Path) -> None:
    """Delete the files in a directory that preparations wrote, and nothing else."""
    _remove(results(output_dir))


def _remove_leftovers(output_dir: Path) -> None:
    """Delete the unfinished files of killed processes."""
    _remove(output_dir.glob(f".*{LEFTOVER_SUFFIX}"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class WorkKeptError(UserError):
    """A mistake that does not invalidate finished pieces: once it is corrected, the next start continues."""


@contextmanager
def discarded_on_mistake(work: Path) -> Iterator[None]:
    """Delete the work directory on errors that require other input or flags, and so a different plan."""
    try:
        yield
    except (WorkKeptError, WorkerLostError):
        raise
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
