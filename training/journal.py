"""Writes a run's reports: log lines, `metrics.jsonl`, TensorBoard events, and a progress bar on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from training.events import EventFile
from training.terms import TOTAL_LOSS
from training.tracker import Tracker
from utils.atomic_files import write_atomically
from utils.file_lock import check_still_there
from utils.messages import warn
from utils.metrics_file import METRICS_FILE, parse_row, read_rows
from utils.streams import discard_output


class Journal:
    """The first rank's reports, to be used as a context manager; on other ranks every method does nothing.

    Args:
        directory: where `metrics.jsonl` goes; it is created.
        events: the directory for TensorBoard's files (default: `tensorboard` in `directory`).
        first_step: rows of this and later steps from an earlier run are removed; None keeps all rows.
        total_steps: the run's number of steps, for the progress bar; None if unknown.
        active: whether this rank writes reports.
        tracker: receives the metrics as TensorBoard does.
        on_closed_output: called if a line cannot be printed because the output is closed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        first_step: int | None,
        total_steps: int | None,
        active: bool = True,
        events: Path | None = None,
        tracker: Tracker | None = None,
        on_closed_output: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self.first_step, self.total_steps, self.active = directory, first_step, total_steps, active
        self._on_closed_output = on_closed_output
        self._evaluations: list[dict[str, Any]] = []
        self._events_in, self._tracker = events or directory / "tensorboard", tracker

    def __enter__(self) -> Journal:
        if not self.active:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        metrics = self.directory / METRICS_FILE
        if self.first_step is not None:
            keep_rows_before(metrics, self.first_step)
        self._rows = open(metrics, "a", encoding="utf-8")
        self._evaluations = [row for row in read_rows(metrics) if TOTAL_LOSS not in row]
        self._events = EventFile(self._events_in, self.first_step or 0)
        if self._tracker is not None:
            self._tracker.start()
        self._bar = tqdm(
            total=self.total_steps,
            initial=self.first_step or 0,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._bar.close()
            self._rows.close()
            self._events.close()
            if self._tracker is not None:
                self._tracker.finish()

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        if self.active:
            self._bar.update()

    def training_row(self, step: int, epoch: int, metrics: Mapping[str, float | None], line: Sequence[str]) -> None:
        """Reports one training step; `line` lists the metrics in the log line, in order."""
        if not self.active:
            return
        shown = ", ".join(f"{name}: {metrics[name]:.3f}" for name in line if metrics.get(name) is not None)
        self.say(f"step: {step}, {shown}, epoch: {epoch} {time.time():.3f}")
        left = {"hours_left": f"{metrics['hours_left']:.3f}"} if "hours_left" in metrics else {}
        self._bar.set_postfix(loss=f"{metrics[TOTAL_LOSS]:.3f}", **left, refresh=False)
        self._write({"step": step, "epoch": epoch, **metrics})

    def evaluated(self, step: int, name: str) -> bool:
        """Whether `metrics.jsonl` has an evaluation metric with this name after this many steps."""
        return any(row["step"] == step and name in row for row in self._evaluations)

    def scores(self, name: str) -> list[float]:
        """The values of an evaluation metric in `metrics.jsonl`, in order."""
        return [row[name] for row in self._evaluations if name in row]

    def evaluation_row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports one evaluation after this many steps; the names begin with `eval_`."""
        if not self.active:
            return
        self.say(
            f"evaluation after step {step}: " + ", ".join(f"{name}: {value:.4g}" for name, value in metrics.items())
        )
        self._evaluations.append({"step": step, **metrics})
        self._write({"step": step, **metrics})

    def say(self, line: str) -> None:
        """Prints one line on standard output, above the progress bar."""
        if not self.active:
            return
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except OSError:  # a closed pipe, a lost terminal, a full disk
            discard_output()
            self._on_closed_output()

    def _write(self, row: dict[str, Any]) -> None:
        check_still_there(self.directory)
        row["time"] = round(time.time(), 3)
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        scalars = {name: value for name, value in row.items() if isinstance(value, float) and name != "time"}
        for name, value in scalars.items():
            self._events.add(row["step"], name, value)
        self._track(row["step"], scalars)

    def _track(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._tracker is not None:
            try:
                self._tracker.log(step, scalars)
            except Exception as error:  # such as a lost connection, which must not end the run
                warn(f"the tracker of --report_to failed and receives no more metrics: {error}")
                self._tracker = None


def keep_rows_before(path: Path, step: int) -> None:
    """Removes the rows of `step` and later, damaged rows, and an incomplete last line; step 0 removes all rows."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if step else []
    kept = (f"{line}\n".encode() for line in lines if (row := parse_row(line)) and _step_of(row) < step)
    write_atomically(path, kept)


def _step_of(row: Mapping[str, Any]) -> int:
    # An evaluation row has the number of completed steps, a training row the index of its step.
    step: int = row["step"]
    return step if TOTAL_LOSS in row else step - 1
