"""Fine-tuning for GLUE: a classifier for each task and seed, its best checkpoint, leaderboard files, a summary."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np

from configs.glue import GlueConfig
from configs.model import BertConfig
from data.glue import (
    GLUE_TASKS,
    GlueExamples,
    GlueRecords,
    GlueTask,
    read_examples,
    submission,
    task_directory,
)
from data.reading.loader import Records
from data.tokenization import load_vocab
from evaluation.glue import glue_metrics, glue_score
from launch.job_shape import JobShape
from modeling import BertForSequenceClassification
from modeling.pretrained import WEIGHTS_FILE, read_weights
from training.distributed import World
from training.evaluator import Evaluator, Say
from training.finiteness import NotFiniteError, check_finite, diverged
from training.run_directory import BEST, SCORE_FILE, RunDirectory, locked
from training.schedule import BatchSchedule
from training.start import Start, check_sizes, find_vocabulary
from training.step import Mode, place_model
from training.task import Task, Vocabulary, padded
from training.terms import EXAMPLE_WEIGHTS, TOTAL_LOSS, Figure, LossTerm
from training.trainer import train_and_evaluate
from utils.atomic_files import atomic_directory, write_atomically
from utils.errors import UserError
from utils.file_lock import check_still_there
from utils.json_file import read_settings
from utils.messages import warn

RESULTS_FILE, SUMMARY_FILE = "eval_results.json", "summary.json"


def finetune_glue(config: GlueConfig) -> None:
    """Trains, evaluates and predicts each task with each seed; summary.json has the figures of all of them."""
    configs = {name: [_config_of(config, name, number) for number in range(config.seeds)] for name in config.data.tasks}
    runs = [each.run for seeds in configs.values() for each in seeds]
    first = JobShape.current().is_first
    with locked(*runs) if first else nullcontext():
        # Every file and directory is checked before hours of work begin.
        files = {name: TaskFiles.read(config, GLUE_TASKS[name]) for name in configs}
        for run in runs:
            if run.do_train and first:
                RunDirectory.of(run).check_unused(run)
        results = {name: [_finetune(each, files[name]) for each in seeds] for name, seeds in configs.items()}
    if config.run.do_eval and first:
        summary = {name: _spread(runs) for name, runs in results.items()}
        output = Path(config.run.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        _write_json(output / SUMMARY_FILE, summary)
        print(summary_table(summary), flush=True)


def summary_table(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A line for each task and metric: the median, the minimum and the maximum over the seeds, and their number."""
    lines = [f"{'task':6} {'metric':28} {'median':>8} {'least':>8} {'most':>8} {'seeds':>5}"]
    for task, metrics in summary.items():
        for name, values in metrics.items():
            figures = " ".join(f"{100 * values[key]:8.2f}" for key in ("median", "min", "max"))
            lines.append(f"{task:6} {name:28} {figures} {values['seeds']:5.0f}")
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


def _config_of(config: GlueConfig, name: str, number: int) -> GlueConfig:
    """The configuration of one task and seed, with its own directories where there are several."""
    parts = ([name] if len(config.data.tasks) > 1 else []) + (
        [f"seed-{config.run.seed + number}"] if config.seeds > 1 else []
    )
    run = dataclasses.replace(config.run.below(*parts), seed=config.run.seed + number)
    model = config.model
    best = Path(run.output_dir) / BEST
    if not run.do_train and not model.init_checkpoint and best.is_dir():
        model = dataclasses.replace(model, init_checkpoint=str(best))
    return dataclasses.replace(
        config, run=run, model=model, data=dataclasses.replace(config.data, task_name=name), seeds=1
    )


@dataclasses.dataclass(frozen=True)
class TaskFiles:
    """The rows of a task that the flags need."""

    task: GlueTask
    training: GlueExamples | None
    dev: list[GlueExamples]
    tests: list[GlueExamples]

    @classmethod
    def read(cls, config: GlueConfig, task: GlueTask) -> TaskFiles:
        """Reads the rows; raises UserError where a file is missing or damaged."""
        flags, data = config.run, config.data
        directory = task_directory(data.data_dir, task)
        return cls(
            task,
            read_examples(directory, task, "train", strict=data.strict_data).first(data.max_train_samples)
            if flags.do_train
            else None,
            [
                read_examples(directory, task, each, strict=data.strict_data).first(data.max_val_samples)
                for each in task.dev_sets
            ]
            if flags.do_eval
            else [],
            [read_examples(directory, task, each) for each in task.test_sets] if config.do_predict else [],
        )


def _finetune(config: GlueConfig, files: TaskFiles) -> dict[str, float]:
    """Trains, evaluates and predicts one task with one seed; returns the metrics of the best checkpoint."""
    if files.training and not config.run.eval_every_n_iters:
        steps = _steps_of_an_epoch(config, files.training)
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, eval_every_n_iters=steps))
    return train_and_evaluate(config, cast(Mode, config.mode), partial(open_task, config, files))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassification(Task):
    """Gives a sentence or a pair of sentences a class, or a score where the task has no classes."""

    model_class = BertForSequenceClassification
    terms = (
        LossTerm(
            Figure(TOTAL_LOSS, EXAMPLE_WEIGHTS),
            labels=("label_ids",),
            others=(Figure("accuracy", EXAMPLE_WEIGHTS),),
        ),
    )
    judged_by = "eval_score"

    config: GlueConfig
    files: TaskFiles
    best: BestCheckpoint

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The metrics of the development sets and their mean; the best checkpoint so far is kept."""
        metrics = self._metrics(evaluator, say)
        score = glue_score(metrics)
        if self.best.offer(score, evaluator, self.vocabulary):
            say(f"the best so far, {score:.4f}: {self.best.directory}")
        return {f"eval_{name}": value for name, value in {**metrics, "score": score}.items()}

    def answer(self, evaluator: Evaluator) -> dict[str, float]:
        """Writes the metrics and the test sets' answers of the best checkpoint; returns the metrics."""
        first, output = evaluator.world.shape.is_first, Path(self.config.run.output_dir)
        if self.evaluates:
            model = self.best.load(self.bert)
            evaluator = evaluator.with_model(place_model(evaluator.mode, model, evaluator.world))
        metrics = self._metrics(evaluator, print) if self.config.run.do_eval else {}
        if first:
            check_still_there(output)
            output.mkdir(parents=True, exist_ok=True)
            if metrics:
                _write_json(output / RESULTS_FILE, metrics)
        task, test_records = self.files.task, self.evaluation[len(self.files.dev) :]
        for name, examples, records in zip(task.test_sets, self.files.tests, test_records, strict=False):
            path = output / task.submissions[name]
            text = submission(self._predict(evaluator, records, print), task, examples.indices)
            if first:
                write_atomically(path, text.encode())
                print(f"wrote {path}", flush=True)
        return metrics

    def _metrics(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        task, metrics = self.files.task, dict[str, float]()
        dev_records = self.evaluation[: len(self.files.dev)]
        for name, examples, records in zip(task.dev_sets, self.files.dev, dev_records, strict=True):
            prefix = "" if name == task.dev_sets[0] else f"{name.removeprefix('dev_')}_"
            assert examples.labels is not None
            found = glue_metrics(task.metrics, examples.labels, self._predict(evaluator, records, say))
            metrics |= {f"{prefix}{metric}": value for metric, value in found.items()}
        return metrics

    def _predict(self, evaluator: Evaluator, records: Records, say: Say) -> np.ndarray:
        logits = evaluator.outputs(records, ("logits",), say)["logits"]  # [n, C]
        return logits.argmax(axis=1) if self.files.task.labels else logits[:, 0]


def open_task(config: GlueConfig, files: TaskFiles, start: Start, world: World) -> SequenceClassification:
    """The classifier of one task; raises UserError where flags, vocabulary and model do not fit together."""
    flags, data, task = config.run, config.data, files.task
    vocab_file = find_vocabulary(start, data.vocab_file, data.do_lower_case)
    vocab = load_vocab(vocab_file)
    bert = config.model.bert_config(start.config, vocab_size=len(vocab))
    check_sizes(start, bert, len(vocab), data.max_seq_length)
    names, problem = task.label_names, "" if task.labels else "regression"
    bert = dataclasses.replace(bert, num_labels=len(names), label_names=names, problem_type=problem)
    _drop_other_classifier(start, names, flags.do_train)

    def records(examples: GlueExamples) -> Records:
        source = GlueRecords(examples, vocab, do_lower_case=data.do_lower_case, max_seq_length=data.max_seq_length)
        return padded(Records(source, below={"segment_ids": bert.type_vocab_size}), config.batch)

    return SequenceClassification(
        bert=bert,
        vocabulary=Vocabulary.read(vocab_file, data.do_lower_case),
        seq_length=data.max_seq_length,
        training=records(files.training) if files.training else None,
        evaluation=tuple(records(examples) for examples in (*files.dev, *files.tests)),
        evaluates=flags.do_train and flags.do_eval,
        config=config,
        files=files,
        best=BestCheckpoint.of(Path(flags.output_dir) / BEST, continued=start.checkpoint is not None),
    )


@dataclasses.dataclass
class BestCheckpoint:
    """The checkpoint with the highest score so far."""

    directory: Path
    score: float = -math.inf

    @classmethod
    def of(cls, directory: Path, *, continued: bool) -> BestCheckpoint:
        """The best checkpoint in a directory, if the run that left it is `continued`; else none yet."""
        if not continued or not (directory / SCORE_FILE).exists():
            return cls(directory)
        score = read_settings(directory / SCORE_FILE).get("score")
        if not isinstance(score, int | float):
            raise UserError(f"{directory / SCORE_FILE} has no score: delete {directory} and resume again.")
        return cls(directory, score)

    def offer(self, score: float, evaluator: Evaluator, vocabulary: Vocabulary) -> bool:
        """Saves the evaluator's model if its score is the highest; returns whether it is."""
        if score <= self.score:
            return False
        self.score, model = score, evaluator.model
        arrays = model.to_arrays()  # on all ranks, because tensors may be global
        if evaluator.world.shape.is_first:
            check_still_there(self.directory.parent)
            try:
                check_finite(arrays, "the weights")
            except NotFiniteError as error:
                raise diverged(error, self.directory if self.directory.exists() else None) from None
            with atomic_directory(self.directory) as partial:
                model.save_pretrained(partial, arrays, vocab=vocabulary.content, do_lower_case=vocabulary.do_lower_case)
                _write_json(partial / SCORE_FILE, {"score": score})
        evaluator.world.barrier()  # the other ranks read it later
        return True

    def load(self, bert: BertConfig) -> BertForSequenceClassification:
        """The saved model, not placed yet."""
        model = BertForSequenceClassification(bert)
        model.load_arrays(read_weights(self.directory / WEIGHTS_FILE), source=str(self.directory))
        return model


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")


def _drop_other_classifier(start: Start, names: tuple[str, ...], do_train: bool) -> None:
    """Leaves out a classifier for other labels, such as another task's; the encoder is kept."""
    config = start.config
    if config is None or (config.num_labels == len(names) and config.label_names in ((), names)):
        return
    if start.drop_weights("classifier."):
        sentence = f"the classifier of {start.path} answers {', '.join(config.shown_labels)}, not {', '.join(names)}"
        if not do_train:
            raise UserError(f"{sentence}: name a model of this task, or train one with --do_train True.")
        warn(f"{sentence}: the encoder is kept.")


def _steps_of_an_epoch(config: GlueConfig, training: GlueExamples) -> int:
    sizes = BatchSchedule.of(config.batch, JobShape.current().data_parallel_size)
    return math.ceil(len(training) / sizes.rows)
