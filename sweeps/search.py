"""Runs a sweep, from its flags to the best trial."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from configs.sweep import SweepConfig
from sweeps.command import Command, Value
from sweeps.report import TABLE_FILE, draw, write_best, write_table
from sweeps.runs import POLL_SECONDS, LocalRun, StartRun, ray_runs
from sweeps.space import Parameter, read_space
from sweeps.trial import COMPLETE, Measure, Record, Trial, run_directory, trial_name
from utils.atomic_files import LEFTOVER_SUFFIX, remove
from utils.checkpoints import BEST, LATEST, checkpoints
from utils.errors import UserError
from utils.file_lock import LOCK_FILE, locked_directory
from utils.json_file import read_settings, write_json

if TYPE_CHECKING:
    import optuna

    from sweeps.study import Study

SWEEP_FILE = "sweep.json"
_LOWER_IS_BETTER = ("loss", "perplexity", "rmse")


def search(config: SweepConfig) -> None:
    """Runs the trials that are missing, and writes the results.

    Raises:
        UserError: the command or the search space is wrong, the output directory has other files, a package is
            missing, or all trials failed. Nothing is run or written before the flags are checked.
    """
    command = Command.parse(config.command)
    space = read_space(config.search, command)
    _require_optuna()
    start_run: StartRun = ray_runs() if config.runner == "ray" else LocalRun
    output = Path(config.output_dir).absolute()
    refusal = (
        f"--output_dir {config.output_dir} is in use by another sweep: wait until it ends, or use another directory."
    )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with locked_directory(output, refusal):
        _claim(output, config, command, space)
        Sweep(output, config, command, space, start_run).run()


class Sweep:
    """The trials of a sweep whose flags are checked and whose directory is locked."""

    def __init__(
        self, output: Path, config: SweepConfig, command: Command, space: list[Parameter], start_run: StartRun
    ) -> None:
        from sweeps.study import Study

        self.output, self.config, self.command, self.start_run = output, config, command, start_run
        metric = config.metric or command.program.metric
        lower = config.direction == "minimize" or (
            not config.direction and any(word in metric for word in _LOWER_IS_BETTER)
        )
        self.measure = Measure(metric, not lower, command.program.keeps_best)
        first = command.config.run.seed
        self.seeds = range(first, first + config.seeds)
        self.study: Study = Study(
            output, space, maximize=not lower, prune=config.prune, seed=config.seed, jobs=config.jobs
        )

    def run(self) -> None:
        """Runs the trials that are missing, --jobs at a time, and writes the results after each."""
        running: list[tuple[optuna.Trial, Trial]] = []
        self._report()
        try:
            while True:
                while len(running) < self.config.jobs and (following := self._next()):
                    running.append(following)
                    following[1].start()
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for each in list(running):
                    stored, trial = each
                    outcome = trial.poll()
                    if outcome:
                        running.remove(each)
                        print(self._line(self.study.finish(stored, outcome)), flush=True)
                        self._report()
        finally:
            for _, trial in running:
                trial.interrupt()
        self._conclude()

    def _next(self) -> tuple[optuna.Trial, Trial] | None:
        following = self.study.next_trial(self.config.trials)
        if following is None:
            return None
        stored, flags = following

        def should_prune(number: int, value: float) -> bool:
            return self.study.should_prune(stored, number, value)

        directory = self.output / trial_name(stored.number)
        shared = {**self._threads(), **flags}
        return stored, Trial(self.command, shared, self.measure, directory, self.seeds, self.start_run, should_prune)

    def _threads(self) -> dict[str, Value]:
        """--num_threads of each run, if several share this machine and the user does not set it."""
        if self.config.jobs == 1 or self.config.runner != "local" or "num_threads" in self.command.flags:
            return {}
        return {"num_threads": max(1, (os.cpu_count() or 1) // self.config.jobs)}

    def _report(self) -> None:
        """Writes the table and the best trial, and removes the checkpoints of the others."""
        records, best = self.study.records(), self.study.best()
        flags = [parameter.flag for parameter in self.study.space]
        write_table(self.output, [records[number] for number in sorted(records)], flags, self.seeds)
        if best:
            write_best(self.output, best, self.command, self.measure.metric)
        for number in records:
            if not self.config.keep_all and number != (best and best.number):
                for seed in self.seeds:
                    _remove_checkpoints(run_directory(self.output / trial_name(number), seed))

    def _line(self, record: Record) -> str:
        """One line about a finished trial."""
        setting = ", ".join(
            f"--{flag} {f'{value:.4g}' if isinstance(value, float) else value}" for flag, value in record.flags.items()
        )
        figure = record.error
        if not record.error:
            figure = f"{self.measure.metric} {record.value:.4g}"
            if len(record.values) > 1:
                figure += f" ({min(record.values):.4g} to {max(record.values):.4g}, {len(record.values)} seeds)"
        return f"{trial_name(record.number)} {record.state}: {figure}, {setting}"

    def _conclude(self) -> None:
        """Draws the plots and prints the best trial; raises UserError if no trial is complete."""
        best, records = self.study.best(), self.study.records()
        if best is None:
            first = next(iter(records.values()))
            raise UserError(
                f"no trial completed. The first one ended with: {first.error or first.state}. See its logs in "
                f"{self.output / trial_name(first.number)}."
            )
        files = [TABLE_FILE, *draw(self.output, self.study, self.measure.metric)]
        print(f"results: {', '.join(str(self.output / name) for name in files)}")
        complete = sum(record.state == COMPLETE for record in records.values())
        print(f"best of {complete} complete trials: {self._line(best)}")
        print(f"its checkpoints are in {self.output / trial_name(best.number)}", flush=True)


def _claim(output: Path, config: SweepConfig, command: Command, space: list[Parameter]) -> None:
    """Writes the flags that determine the results to sweep.json, or compares them with those of the sweep to resume.

    Raises:
        UserError: the directory has other files, or a sweep with other flags.
    """
    settings = {
        "command": [command.script, *command.words],
        "search": {parameter.flag: _plain(parameter) for parameter in space},
        **{name: getattr(config, name) for name in ("seeds", "metric", "direction", "prune", "seed")},
    }
    if not config.resume and any(each.name != LOCK_FILE for each in output.iterdir()):
        raise UserError(
            f"--output_dir {config.output_dir} is not empty: continue the sweep in it with --resume, or use another "
            "directory."
        )
    stored = read_settings(output / SWEEP_FILE) if (output / SWEEP_FILE).exists() else settings
    for name, value in settings.items():
        if stored.get(name) != value:
            raise UserError(
                f"--{name} differs from the sweep in {config.output_dir}, which has {stored.get(name)!r:.200}: "
                "resume with the same value, or use another directory."
            )
    write_json(output / SWEEP_FILE, settings)


def _plain(parameter: Parameter) -> dict[str, object]:
    """A parameter as JSON stores it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(parameter).items()}


def _remove_checkpoints(run: Path) -> None:
    for path in (*checkpoints(run), run / BEST, run / LATEST, *run.glob(f".*{LEFTOVER_SUFFIX}")):
        remove(path)


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("sweep.py needs Optuna: install it with `make setup EXTRAS=sweep`.") from None
