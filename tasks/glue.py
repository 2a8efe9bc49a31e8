"""Fine-tunes on GLUE: presets of the classifier, with the tasks' files, metrics and leaderboard files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.glue import GlueConfig
from data.classification import TextExamples
from data.glue import GLUE_TASKS, GlueTask, read_examples, submission, task_directory
from evaluation.classification import mean_score, metrics, predictions_of
from tasks.classification import Figures, Problem, finetune
from tasks.seeds import finetune_seeds
from utils.atomic_files import write_atomically


def finetune_glue(config: GlueConfig) -> None:
    """Trains, evaluates and predicts each task with each seed; writes the metrics of all runs to summary.json."""
    # Read every file before training starts.
    problems = {name: preset(config, GLUE_TASKS[name]) for name in config.data.tasks}

    def run(config: GlueConfig, name: str) -> Figures:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, task_name=name))
        return finetune(config, lambda start: problems[name])

    finetune_seeds(config, config.data.tasks, run)


def preset(config: GlueConfig, task: GlueTask) -> Problem:
    """Creates the problem of a task with the required sets; raises UserError for missing or damaged files."""
    flags, data = config.run, config.data
    directory = task_directory(data.data_dir, task, of_several=len(data.tasks) > 1)

    def read(name: str, most: int | None) -> TextExamples:
        return read_examples(directory, task, name, strict=data.strict_data).first(most)

    training = read("train", data.max_train_samples) if flags.do_train else None
    validation = [read(name, data.max_val_samples) for name in task.dev_sets] if flags.do_eval else []
    tests = [read_examples(directory, task, name) for name in task.test_sets] if config.do_predict else []
    problem_type = "" if task.labels else "regression"
    judging = GlueJudging(task, problem_type, validation, tests)
    return Problem(task.label_names, problem_type, training, validation, tests, judging)


@dataclass(frozen=True)
class GlueJudging:
    """Computes GLUE's metrics and writes files for its leaderboard."""

    task: GlueTask
    problem_type: str
    validation: list[TextExamples]
    tests: list[TextExamples]

    def figures(self, sets: list[np.ndarray]) -> Figures:
        """The task's metrics; those of a second development set are prefixed with its name."""
        task, figures = self.task, Figures()
        for name, examples, logits in zip(task.dev_sets, self.validation, sets, strict=True):
            prefix = "" if name == task.dev_sets[0] else f"{name.removeprefix('dev_')}_"
            assert examples.labels is not None
            found = metrics(task.metrics, examples.labels, predictions_of(logits, self.problem_type))
            figures |= {f"{prefix}{metric}": value for metric, value in found.items()}
        return figures

    def score(self, figures: Figures) -> float:
        """The mean of the metrics, as on the leaderboard."""
        return mean_score(figures)

    def write(self, output: Path, validation: list[np.ndarray], tests: list[np.ndarray]) -> None:
        """Writes the leaderboard file of each test set."""
        for name, examples, logits in zip(self.task.test_sets, self.tests, tests, strict=False):
            path = output / self.task.submissions[name]
            predictions = predictions_of(logits, self.problem_type)
            write_atomically(path, submission(predictions, self.task, examples.indices).encode())
            print(f"wrote {path}", flush=True)
