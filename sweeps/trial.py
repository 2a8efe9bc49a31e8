"""One trial of a sweep: a setting that is run with one or more seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sweeps.command import Command, Value
from sweeps.runs import Run, StartRun
from utils.metrics_file import METRICS_FILE, read_rows

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
ShouldPrune = Callable[[int, float], bool]  # the number of an evaluation, counted from 0, and its metric


@dataclass(frozen=True)
class Outcome:
    """The end of a trial.

    Attributes:
        state: `COMPLETE`, `PRUNED` or `FAILED`.
        values: the metric of each finished run; of a pruned trial, that of its last evaluation.
        error: why it failed.
    """

    state: str
    values: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Record:
    """A finished trial.

    Attributes:
        number: its number, counted from 0.
        flags: its setting.
        state: `COMPLETE`, `PRUNED` or `FAILED`.
        values: the metric of each run; of a pruned trial, that of its last evaluation.
        error: why it failed.
    """

    number: int
    flags: Mapping[str, Value]
    state: str
    values: tuple[float, ...]
    error: str

    @property
    def value(self) -> float:
        """The median over the seeds; NaN if there are no values."""
        return median(self.values) if self.values else math.nan


@dataclass(frozen=True)
class Measure:
    """The metric by which trials are compared.

    Attributes:
        metric: its name in metrics.jsonl.
        maximize: whether higher values are better.
        takes_best: whether the value of a run is its best evaluation; otherwise it is the last one.
    """

    metric: str
    maximize: bool
    takes_best: bool

    def evaluations(self, run: Path) -> list[float]:
        """The metric in each evaluation of a run so far, in order."""
        rows = read_rows(run / METRICS_FILE, missing_ok=True)
        return list({row["step"]: float(row[self.metric]) for row in rows if self.metric in row}.values())

    def of_run(self, evaluations: list[float]) -> float:
        """The value of a finished run."""
        return (max if self.maximize else min)(evaluations) if self.takes_best else evaluations[-1]


@dataclass
class Trial:
    """Runs a setting with each seed, one after another.

    Attributes:
        command, flags, measure: what to run and compare.
        directory: the trial's directory; each run has a subdirectory and a log in it.
        seeds: the seeds.
        start_run: starts a run.
        should_prune: decides after each evaluation with the first seed.
    """

    command: Command
    flags: Mapping[str, Value]
    measure: Measure
    directory: Path
    seeds: range
    start_run: StartRun
    should_prune: ShouldPrune
    _values: list[float] = field(default_factory=list)
    _judged: int = 0  # evaluations
    _run: Run | None = None

    def start(self) -> None:
        """Starts the run with the next seed, or continues it if the sweep was interrupted."""
        argv = self.command.argv(self.flags, self._seed, run_directory(self.directory, self._seed))
        self._run = self.start_run(argv, self._log)

    def poll(self) -> Outcome | None:
        """Checks the run, and starts the next one when it has ended; returns the outcome when the trial has ended."""
        assert self._run
        code = self._run.poll()  # before the metrics are read, so that those of a finished run are complete
        evaluations = self.measure.evaluations(run_directory(self.directory, self._seed))
        if not self._values:
            for number in range(self._judged, len(evaluations)):
                # Even if the run has already continued or ended: the result must not depend on when this is called.
                if self.should_prune(number, evaluations[number]):
                    self._run.stop(save=False)
                    return Outcome(PRUNED, (evaluations[number],))
            self._judged = len(evaluations)
        if code is None:
            return None
        if code:
            return Outcome(FAILED, tuple(self._values), f"exit code {code}: {_last_line(self._log)}")
        value = self.measure.of_run(evaluations) if evaluations else math.nan
        if not math.isfinite(value):
            found = f"{self.measure.metric} {value}" if evaluations else f"no {self.measure.metric}"
            return Outcome(FAILED, tuple(self._values), f"{METRICS_FILE} has {found}")
        self._values.append(value)
        if len(self._values) == len(self.seeds):
            return Outcome(COMPLETE, tuple(self._values))
        self.start()
        return None

    def interrupt(self) -> None:
        """Ends the run after it has saved a checkpoint."""
        if self._run:
            self._run.stop(save=True)

    @property
    def _seed(self) -> int:
        return self.seeds[len(self._values)]

    @property
    def _log(self) -> Path:
        return self.directory / f"seed-{self._seed}.log"


def trial_name(number: int) -> str:
    """The name of a trial's directory."""
    return f"trial-{number:04}"


def run_directory(trial: Path, seed: int) -> Path:
    """The output directory of a trial's run."""
    return trial / f"seed-{seed}"


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")[:300]
