"""Runs a fine-tuning command for each data set and seed, and summarizes the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from evaluation.classification import LOWER_IS_BETTER
from launch.job_shape import JobShape
from training.run_directory import BEST, RunDirectory, locked
from utils.json_file import write_json

Config = TypeVar("Config", bound=Any)  # a command's configuration with the field `seeds`
SUMMARY_FILE = "summary.json"


def finetune_seeds(
    config: Config, names: Sequence[str], finetune: Callable[[Config, str], Mapping[str, float]]
) -> None:
    """Fine-tunes on each data set with each seed; writes the metrics of all runs to `summary.json`.

    Args:
        config: the flags. If there are several runs, each has its own directory below --output_dir.
        names: the names of the data sets.
        finetune: performs one run on a named data set, and returns the metrics of its best checkpoint.
    """
    configs = {
        name: [_config_of(config, name if len(names) > 1 else "", number) for number in range(config.seeds)]
        for name in names
    }
    runs, first = [each.run for seeds in configs.values() for each in seeds], JobShape.current().is_first
    with locked(*runs) if first else nullcontext():
        for run in runs:
            if run.do_train and first:
                RunDirectory.of(run).check_unused(run)
        results = {name: [finetune(each, name) for each in seeds] for name, seeds in configs.items()}
    summary = {name: _spread(figures) for name, figures in results.items() if figures[0]}
    if summary and first:
        output = Path(config.run.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / SUMMARY_FILE, summary)
        print(summary_table(summary), flush=True)


def summary_table(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One line per data set and metric: median, minimum and maximum over the seeds, and the number of seeds."""
    width = max(6, *map(len, summary))
    lines = [f"{'task':{width}} {'metric':28} {'median':>8} {'least':>8} {'most':>8} {'seeds':>5}"]
    for task, metrics in summary.items():
        for name, values in metrics.items():
            scale = 1 if name in LOWER_IS_BETTER else 100  # an error keeps its unit
            figures = " ".join(f"{scale * values[key]:8.2f}" for key in ("median", "min", "max"))
            lines.append(f"{task:{width}} {name:28} {figures} {values['seeds']:5.0f}")
    return "\n".join(lines)


def _spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": median(run[name] for run in runs),
            "min": min(run[name] for run in runs),
            "max": max(run[name] for run in runs),
            "std": float(np.std([run[name] for run in runs])),
            "seeds": len(runs),
        }
        for name in runs[0]
    }


def _config_of(config: Config, name: str, number: int) -> Config:
    """The configuration of one data set and seed; without training it uses the existing best checkpoint."""
    seed = config.run.seed + number
    parts = ([name] if name else []) + ([f"seed-{seed}"] if config.seeds > 1 else [])
    run, model = dataclasses.replace(config.run.below(*parts), seed=seed), config.model
    best = Path(run.output_dir) / BEST
    if not run.do_train and not model.init_checkpoint and best.is_dir():
        model = dataclasses.replace(model, init_checkpoint=str(best))
    return dataclasses.replace(config, run=run, model=model, seeds=1)
