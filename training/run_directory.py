"""The directories of a run: refused if another run is in them, cleared if that is asked for, claimed by run.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.training import RunFlags
from training.checkpoint import write_text_atomically
from training.journal import METRICS_FILE
from training.probes import CLOZE_FILE
from utils.errors import UserError
from utils.messages import warn

RUN_FILE, EVENTS = "run.json", "tensorboard"
_FILES = (METRICS_FILE, RUN_FILE, "latest", EVENTS, "loss_curve.png", "best", "eval_results.txt", CLOZE_FILE)
_ANSWER_FILES = (
    *("predictions.json", "nbest_predictions.json", "null_odds.json", "eval_results.json", "test_results.json"),
    *("predictions.csv", "predictions.jsonl", "confusion_matrix.png"),
)
_FLAGS_OF_ONE_START = {"resume", "overwrite_output_dir"}  # these may differ whenever a run is started


@dataclass(frozen=True)
class RunDirectory:
    """Where the checkpoints, the results and TensorBoard's files of one run are; often the same directory."""

    checkpoints: Path
    output: Path  # --output_dir: run.json, metrics, results
    events: Path  # TensorBoard's files

    @classmethod
    def of(cls, flags: RunFlags) -> RunDirectory:
        """The directories that the flags name."""
        saves_in = None if flags.load_from else flags.checkpoint_path
        output = Path(flags.output_dir)
        # Several runs may share --log_dir, so each has a directory in it.
        events = Path(flags.log_dir, output.resolve().name) if flags.log_dir else output / EVENTS
        return cls(Path(saves_in or output), output, events)

    def check_unused(self, flags: RunFlags) -> None:
        """Raises UserError where a new run would mix its files with those of another one."""
        if flags.resume or flags.overwrite_output_dir:
            return
        for name, directory in self._both.items():
            if directory.is_dir() and any(directory.iterdir()):
                raise UserError(
                    f"--{name} {directory} is not empty: continue the run in it with --resume, start over with "
                    "--overwrite_output_dir, or name another directory."
                )

    def clear(self, flags: RunFlags) -> None:
        """Removes what an earlier run left, if --overwrite_output_dir is given."""
        if flags.resume or not flags.overwrite_output_dir:
            return
        for path in (path for directory in self._both.values() for path in files_of_runs(directory)):
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def claim(self, flags: RunFlags, settings: Mapping[str, Any]) -> None:
        """Makes the directories and writes `settings`, all flags, to run.json; warns where a resumed run changes some.

        Raises:
            UserError: a directory cannot be made.
        """
        for name, directory in {**self._both, "log_dir": self.events}.items():
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--{name} {directory} cannot be made: {error.strerror}.") from None
        if flags.resume:
            changed = changed_flags(self._stored_settings(), settings)
            if changed:
                warn(f"the resumed run has other flags than before: {', '.join(changed)}.")
        write_text_atomically(self.output / RUN_FILE, json.dumps(settings, indent=2) + "\n")

    @property
    def _both(self) -> dict[str, Path]:
        """{flag: the directory of the run's own files that it names}, each directory once."""
        both = {"output_dir": self.output}
        return both if self.checkpoints == self.output else {**both, "checkpoint_path": self.checkpoints}

    def _stored_settings(self) -> dict[str, Any]:
        try:
            stored = json.loads((self.output / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}


def changed_flags(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The flags with other values than before, as "--NAME (was VALUE)"; values are compared as JSON stores them."""
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in now.items()}
    return [
        f"--{name} (was {before[name]})"
        for name, value in stored.items()
        if name not in _FLAGS_OF_ONE_START and name in before and before[name] != value
    ]


def files_of_runs(directory: Path) -> list[Path]:
    """The paths that a run and its phases may write in a directory; nothing else is ever removed."""
    checkpoints = [path for pattern in ("checkpoint-*", ".checkpoint-*") for path in directory.glob(pattern)]
    phases = [path for phase in directory.glob("phase[0-9]*") for path in files_of_runs(phase)]
    return [*(directory / name for name in (*_FILES, *_ANSWER_FILES)), *checkpoints, *phases]
