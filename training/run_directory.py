"""The directories of a run: locks them during the run, refuses those with another run's files, clears them on request,
and writes run.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.cli import changed_flags
from configs.training import RunFlags
from conversion.model_directory import SETTINGS_FILES, foreign_files
from modeling.pretrained import GENERATOR_DIRECTORY, TRAINING_ONLY_FILE, WEIGHTS_FILE
from training.checkpoint import OPTIMIZER_FILE, STATE_FILE
from training.journal import METRICS_FILE
from training.probes import CLOZE_FILE
from utils.atomic_files import LEFTOVER_SUFFIX, remove
from utils.checkpoints import BEST, LATEST
from utils.errors import UserError
from utils.file_lock import LOCK_FILE, locked_directory
from utils.json_file import read_settings, write_json
from utils.messages import warn

RUN_FILE, EVENTS, SCORE_FILE = "run.json", "tensorboard", "score.json"
_RUNS_FILES = (METRICS_FILE, RUN_FILE, LATEST, "loss_curve.png", "eval_results.txt", CLOZE_FILE)
_ANSWER_FILES = (
    *("predictions.json", "nbest_predictions.json", "null_odds.json", "eval_results.json", "test_results.json"),
    *("predictions.csv", "predictions.jsonl", "confusion_matrix.png", "summary.json"),
)
_CHECKPOINT, _PHASE = re.compile(r"checkpoint-\d+"), re.compile(r"phase\d+")
# Files that a killed run leaves; names without a process id are from earlier versions.
_LEFTOVER = re.compile(
    rf"\.(checkpoint-\d+|{BEST}|[\w.]+\.(json|jsonl|txt|tsv|csv|png)|{LATEST})(\.old)?"
    rf"(\.\d+{re.escape(LEFTOVER_SUFFIX)}|\.partial|\.leaving)"
)
# What is in a run's directories; `*` stands for any name.
_MODEL_FILES = (*SETTINGS_FILES, WEIGHTS_FILE)
_CHECKPOINT_FILES = (
    *(*_MODEL_FILES, *(f"{GENERATOR_DIRECTORY}/{name}" for name in _MODEL_FILES)),
    *(SCORE_FILE, STATE_FILE, OPTIMIZER_FILE, TRAINING_ONLY_FILE),
)
_EVENT_FILES = ("events.out.tfevents.*",)
_FLAGS_OF_ONE_START = {"resume", "overwrite_output_dir"}  # these may differ at each start


@dataclass(frozen=True)
class RunDirectory:
    """The directories for checkpoints, results and TensorBoard files of a run, which are often the same."""

    checkpoints: Path
    output: Path  # --output_dir: run.json, metrics, results
    events: Path  # TensorBoard's files

    @classmethod
    def of(cls, flags: RunFlags) -> RunDirectory:
        """The directories in the flags."""
        saves_in = None if flags.load_from else flags.checkpoint_path
        output = Path(flags.output_dir)
        # Several runs may share --log_dir, so each has a subdirectory.
        events = Path(flags.log_dir, output.resolve().name) if flags.log_dir else output / EVENTS
        return cls(Path(saves_in or output), output, events)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directories and keeps other runs out of them inside the block.

        Raises:
            UserError: another run uses one of them, or one cannot be created.
        """
        with ExitStack() as stack:
            for flag, directory in self._named.items():
                refusal = (
                    f"--{flag} {directory} is in use by another run: wait until it ends, or use another directory."
                )
                try:
                    stack.enter_context(locked_directory(directory, refusal))
                except OSError as error:
                    raise UserError(
                        f"--{flag} {directory} cannot be created or written: {error.strerror}. Use another directory."
                    ) from None
            yield

    def check_unused(self, flags: RunFlags) -> None:
        """Raises UserError if a run would mix its files with another run's, or delete unrelated files."""
        for flag, directory in self._named.items():
            if flags.resume or flags.overwrite_output_dir or not directory.is_dir():
                continue
            if any(each.name != LOCK_FILE for each in directory.iterdir()):
                raise UserError(
                    f"--{flag} {directory} is not empty: continue the run in it with --resume, start over with "
                    "--overwrite_output_dir, or use another directory."
                )
        self.to_clear(flags)

    def to_clear(self, flags: RunFlags) -> list[Path]:
        """The files of an earlier run, if --overwrite_output_dir is set.

        Raises:
            UserError: one of that run's directories contains unrelated files.
        """
        if flags.resume or not flags.overwrite_output_dir:
            return []
        found = [path for directory in self._named.values() for path in files_of_runs(directory)]
        _check_removable(found)
        return found

    def clear(self, flags: RunFlags) -> None:
        """Removes the files of an earlier run, if --overwrite_output_dir is set."""
        for path in self.to_clear(flags):
            remove(path)

    def claim(self, flags: RunFlags, settings: Mapping[str, Any]) -> None:
        """Writes `settings` (all flags) to run.json; warns if a resumed run changes some.

        Raises:
            UserError: a directory has the name of one of the run's files.
        """
        try:
            self.events.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--log_dir {self.events} cannot be created: {error.strerror}. Use another directory."
            ) from None
        for directory in self._named.values():
            for name in _RUNS_FILES:
                if (directory / name).is_dir():
                    raise UserError(f"{directory / name} is a directory, but a run writes a file there: remove it.")
            for path in directory.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    remove(path)
        if flags.resume:
            stored = {k: v for k, v in self._stored_settings().items() if k not in _FLAGS_OF_ONE_START}
            changed = changed_flags(stored, settings)
            if changed:
                warn(f"the resumed run has different flags than before: {', '.join(changed)}.")
        write_json(self.output / RUN_FILE, settings)

    @property
    def _named(self) -> dict[str, Path]:
        """{flag: directory} of the run's own files, each directory once."""
        named = {"output_dir": self.output}
        return named if self.checkpoints == self.output else {**named, "checkpoint_path": self.checkpoints}

    def _stored_settings(self) -> dict[str, Any]:
        try:
            return read_settings(self.output / RUN_FILE)
        except UserError:  # missing or damaged
            return {}


@contextmanager
def locked(*runs: RunFlags) -> Iterator[None]:
    """Keeps other runs out of the directories of training runs inside the block; runs that only evaluate need none."""
    with ExitStack() as stack:
        for flags in runs:
            if flags.do_train:
                stack.enter_context(RunDirectory.of(flags).locked())
        yield


def files_of_runs(directory: Path) -> list[Path]:
    """The paths that a run and its phases may have written in a directory; nothing else is ever removed.

    Symbolic links are not followed: a link with a name of a run is removed itself, and a link is never a phase.
    """
    if not directory.is_dir():
        return []
    names = {*_RUNS_FILES, *_ANSWER_FILES, EVENTS, BEST}
    found = []
    for path in sorted(directory.iterdir()):
        if path.name in names or _CHECKPOINT.fullmatch(path.name) or _LEFTOVER.fullmatch(path.name):
            found.append(path)
        elif _PHASE.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            found += files_of_runs(path)
    return found


def _check_removable(paths: Iterable[Path]) -> None:
    """Raises UserError if one of a run's directories contains files that no run writes."""
    for path in paths:
        if path.is_symlink() or not path.is_dir() or _LEFTOVER.fullmatch(path.name):
            continue
        foreign = next(foreign_files(path, _EVENT_FILES if path.name == EVENTS else _CHECKPOINT_FILES), None)
        if foreign:
            raise UserError(
                f"--overwrite_output_dir does not delete {path}, because {foreign.relative_to(path)} in it does "
                "not belong to a run: move it, or use another directory."
            )
