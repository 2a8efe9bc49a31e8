"""Fine-tuning for GLUE: one classifier a task and seed, the best checkpoint kept, leaderboard files, a summary."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np

from configs.cli import warn
from configs.glue import GlueConfig
from conversion.tokenizer_files import Vocabulary
from data.datasets.glue import (
    GLUE_TASKS,
    GlueExamples,
    GlueRecords,
    GlueTask,
    read_examples,
    submission,
    task_directory,
)
from data.reading.loader import Records
from evaluation.glue import glue_metrics, glue_score
from launch import ranks
from modeling import BertForSequenceClassification
from modeling.pretrained import WEIGHTS_FILE, read_weights
from training.checkpoint import write_text_atomically
from training.run import Run, Task, check_directories
from training.schedule import BatchSchedule
from training.step import Mode, build_eval_step, place
from utils.errors import UserError

BEST, SCORE_FILE, RESULTS_FILE, SUMMARY_FILE = "best", "score.json", "eval_results.json", "summary.json"
Say = Callable[[str], None]


def finetune_glue(config: GlueConfig) -> None:
    """Trains, evaluates and predicts each task with each seed; what belongs to all of them is in summary.json."""
    configs = {name: [_config_of(config, name, number) for number in range(config.seeds)] for name in config.data.tasks}
    # All is read and looked at before hours of work begin.
    files = {name: TaskFiles.read(config, GLUE_TASKS[name]) for name in configs}
    for each in (each for seeds in configs.values() for each in seeds):
        if config.run.do_train and ranks.rank() <= 0:
            check_directories(each.run)
    results = {name: [_finetune(each, files[name]) for each in seeds] for name, seeds in configs.items()}
    if config.run.do_eval and ranks.rank() == 0:
        summary = {name: _spread(runs) for name, runs in results.items()}
        output = Path(config.run.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        write_text_atomically(output / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
        print(summary_table(summary), flush=True)


def summary_table(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A line for each task and metric: the median over the seeds, the least, the largest, and how many there were."""
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
    """The configuration of one task and seed, with directories of its own where there are several."""
    parts = ([name] if len(config.data.tasks) > 1 else []) + ([f"seed-{number}"] if config.seeds > 1 else [])
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
    """A task's rows, those that the flags need."""

    task: GlueTask
    training: GlueExamples | None
    dev: list[GlueExamples]
    tests: list[GlueExamples]

    @classmethod
    def read(cls, config: GlueConfig, task: GlueTask) -> TaskFiles:
        """Reads them; raises UserError where one is missing or damaged."""
        flags, data = config.run, config.data
        directory = task_directory(data.data_dir, task)
        return cls(
            task,
            read_examples(directory, task, "train").first(data.max_train_samples) if flags.do_train else None,
            [read_examples(directory, task, each).first(data.max_val_samples) for each in task.dev_sets]
            if flags.do_eval
            else [],
            [read_examples(directory, task, each) for each in task.test_sets] if config.do_predict else [],
        )


def _finetune(config: GlueConfig, files: TaskFiles) -> dict[str, float]:
    """One task with one seed; returns the metrics of the best checkpoint."""
    flags, data = config.run, config.data
    task, training, dev, tests = files.task, files.training, files.dev, files.tests
    if training and not flags.eval_every_n_iters:
        config = dataclasses.replace(
            config, run=dataclasses.replace(flags, eval_every_n_iters=_epoch(config, training))
        )
        flags = config.run

    run = Run(config, cast(Mode, config.mode))
    vocabulary = run.vocabulary(data.vocab_file, data.do_lower_case)
    bert = config.model.bert_config(run.start_config, vocab_size=vocabulary.size)
    run.check_sizes(bert, vocabulary.size, data.max_seq_length)
    names, problem = task.label_names, "" if task.labels else "regression"
    bert = dataclasses.replace(bert, num_labels=len(names), label_names=names, problem_type=problem)
    _forget_other_classifier(run, names)

    def records(examples: GlueExamples) -> Records:
        source = GlueRecords(examples, vocabulary, max_seq_length=data.max_seq_length)
        return run.padded(Records(source, below={"segment_ids": bert.type_vocab_size}))

    training_records = records(training) if training else None
    dev_records, test_records = [records(each) for each in dev], [records(each) for each in tests]
    run.check_alike(training_records, *dev_records, *test_records)
    model = run.build_model(BertForSequenceClassification, bert)
    output = Path(flags.output_dir)

    def predictor(model: BertForSequenceClassification) -> Callable[[Records, Say], np.ndarray]:
        eval_step = build_eval_step(run.mode, model, run.world, outputs=("logits",))

        def predict(records: Records, say: Say) -> np.ndarray:
            logits = run.outputs(eval_step, records, ("logits",), say)["logits"]  # [n, C]
            return logits.argmax(axis=1) if task.labels else logits[:, 0]

        return predict

    def judged(predict: Callable[[Records, Say], np.ndarray], say: Say) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, examples, each in zip(task.dev_sets, dev, dev_records, strict=True):
            prefix = "" if name == task.dev_sets[0] else f"{name.removeprefix('dev_')}_"
            assert examples.labels is not None
            found = glue_metrics(task.metrics, examples.labels, predict(each, say))
            metrics |= {f"{prefix}{metric}": value for metric, value in found.items()}
        return metrics

    predict = predictor(model)
    best = _Best(output / BEST, run)
    if training_records:

        def evaluate(say: Say) -> dict[str, float]:
            metrics = judged(predict, say)
            score = glue_score(metrics)
            if best.offer(score, model, vocabulary):
                say(f"the best so far, {score:.4f}: {best.directory}")
            return {f"eval_{name}": value for name, value in {**metrics, "score": score}.items()}

        run.train(
            model,
            Task(
                records=training_records,
                seq_length=data.max_seq_length,
                predictions=0,
                vocabulary=vocabulary,
                evaluate=evaluate if flags.do_eval else None,
                figure="eval_score",
            ),
        )
        if flags.do_eval:
            model = BertForSequenceClassification(bert)
            model.load_arrays(read_weights(best.directory / WEIGHTS_FILE), source=str(best.directory))
            predict = predictor(place(run.mode, model, run.world))

    metrics = judged(predict, print) if flags.do_eval else {}
    if run.world.rank == 0:
        output.mkdir(parents=True, exist_ok=True)
        if metrics:
            write_text_atomically(output / RESULTS_FILE, json.dumps(metrics, indent=2) + "\n")
    for name, examples, each in zip(task.test_sets, tests, test_records, strict=False):
        path = output / task.submissions[name]
        text = submission(predict(each, print), task, examples.indices)
        if run.world.rank == 0:
            write_text_atomically(path, text)
            print(f"wrote {path}", flush=True)
    return metrics


class _Best:
    """The checkpoint with the highest score so far, of this run or of what it resumes."""

    def __init__(self, directory: Path, run: Run) -> None:
        self.directory, self.run = directory, run
        self.score = -math.inf
        if run.checkpoint and (directory / SCORE_FILE).exists():
            self.score = json.loads((directory / SCORE_FILE).read_text())["score"]

    def offer(self, score: float, model: BertForSequenceClassification, vocabulary: Vocabulary) -> bool:
        """Keeps the model if it is better than all before."""
        if score <= self.score:
            return False
        self.score = score
        arrays = model.to_arrays()  # by all ranks: reading global tensors is a common act
        if self.run.world.rank == 0:
            partial = self.directory.with_name(f".{self.directory.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(partial, arrays, vocabulary.files(model.config.max_position_embeddings))
            (partial / SCORE_FILE).write_text(json.dumps({"score": score}) + "\n")
            shutil.rmtree(self.directory, ignore_errors=True)
            partial.rename(self.directory)
        self.run.world.wait()  # the others read it, too
        return True


def _forget_other_classifier(run: Run, names: tuple[str, ...]) -> None:
    """A classifier for other labels, as of another task, is not started from; the encoder is."""
    start = run.start_config
    if start is None or (start.num_labels == len(names) and start.label_names in ((), names)):
        return
    if run.forget("classifier."):
        sentence = f"the classifier of {run.start} answers {', '.join(start.shown_labels)}, not {', '.join(names)}"
        if not run.config.run.do_train:
            raise UserError(f"{sentence}: name a model of this task, or train one with --do_train True.")
        warn(f"{sentence}: the encoder is kept.")


def _epoch(config: GlueConfig, training: GlueExamples) -> int:
    sizes = BatchSchedule.of(config.batch, ranks.size())
    return math.ceil(len(training) / (sizes.micro_rows * sizes.peak))
