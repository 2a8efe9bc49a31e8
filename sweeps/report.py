"""Writes the results of a sweep: a table, the best trial, and two plots."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from sweeps.command import Command
from sweeps.trial import COMPLETE, Record, trial_name
from utils.atomic_files import atomic_file, write_atomically
from utils.json_file import write_json

if TYPE_CHECKING:
    from sweeps.study import Study

TABLE_FILE, BEST_FILE = "trials.csv", "best.json"
COORDINATES_FILE, IMPORTANCE_FILE = "parallel_coordinates.png", "importance.png"
_FEWEST_TRIALS = 3  # for a plot


def write_table(output: Path, records: Sequence[Record], flags: Sequence[str], seeds: range) -> None:
    """Writes trials.csv: one row per finished trial, with its state, the median and spread, each run, and the flags.

    The table contains no times, so that equal sweeps have equal tables.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    runs = [f"seed_{seed}" for seed in seeds]
    writer.writerow(["trial", "state", *flags, "median", "min", "max", "std", *runs, "error"])
    for record in records:
        values, missing = record.values, [""] * (len(seeds) - len(record.values))
        figures = [record.value, min(values), max(values), pstdev(values)] if values else [""] * 4
        setting = [record.flags.get(flag, "") for flag in flags]
        writer.writerow([trial_name(record.number), record.state, *setting, *figures, *values, *missing, record.error])
    write_atomically(output / TABLE_FILE, text.getvalue().encode())


def write_best(output: Path, best: Record, command: Command, metric: str) -> None:
    """Writes best.json: the best trial, its metric, and the flags that reproduce it."""
    content = {
        "directory": trial_name(best.number),
        "metric": metric,
        "median": best.value,
        "values": list(best.values),
        "flags": dict(best.flags),
        "command": [command.script, *command.words, *(f"--{flag}={value}" for flag, value in best.flags.items())],
    }
    write_json(output / BEST_FILE, content)


def draw(output: Path, study: Study, metric: str) -> list[str]:
    """Plots the settings of the complete trials and the importance of each flag; returns the names of the files.

    Draws nothing if there are too few trials, or if all have the same value.
    """
    complete = [record for record in study.records().values() if record.state == COMPLETE]
    if len(complete) < _FEWEST_TRIALS or len({record.value for record in complete}) == 1:
        return []
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(study.optuna_study, target_name=metric)
    figure = pyplot.gcf()
    figure.set_size_inches(max(8, 2 * len(study.space) + 3), 5)
    axes.set_title("")
    _save(output / COORDINATES_FILE, figure)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = optuna.importance.get_param_importances(study.optuna_study, evaluator=evaluator)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.5 * len(importance)), layout="constrained")
    axes.barh([f"--{flag}" for flag in reversed(importance)], list(reversed(importance.values())))
    axes.set_xlabel(f"share of the variance of {metric} (fANOVA)")
    _save(output / IMPORTANCE_FILE, figure)
    return [COORDINATES_FILE, IMPORTANCE_FILE]


def _save(path: Path, figure: Any) -> None:
    from matplotlib import pyplot

    with atomic_file(path) as file:
        figure.savefig(file, dpi=120, format="png", bbox_inches="tight")
    pyplot.close(figure)
