"""Fine-tunes a classifier of texts or text pairs. GLUE's tasks (glue.py) and the user's own files (labelled_files.py)
differ only in their `Problem`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from configs.classifier import ClassifierConfig
from configs.glue import GlueConfig
from configs.model import CLASSIFIER, TOKEN_CLASSIFIER, BertConfig, LongText
from data.classification import LabelLoss, TextExamples, TextRecords
from data.long_text import mean_by_row
from data.reading.loader import Records
from modeling import BertForSequenceClassification
from modeling.distillation import SoftTarget, SoftTargetKind
from tasks.best_checkpoint import BestCheckpoint
from training.distributed import World
from training.evaluator import Evaluator, Say
from training.start import Start, check_sizes, find_vocabulary, warn_of_random_weights
from training.step import Mode
from training.task import Task, padded
from training.terms import EXAMPLE_WEIGHTS, TOTAL_LOSS, Figure, LossTerm
from training.trainer import train_and_evaluate
from utils.errors import UserError
from utils.file_lock import check_still_there
from utils.json_file import write_json
from utils.messages import warn

RESULTS_FILE = "eval_results.json"
Figures = dict[str, float]


class Judging(Protocol):
    """Computes metrics and writes predictions from a classifier's logits."""

    def figures(self, sets: list[np.ndarray]) -> Figures:
        """The metrics of the validation sets, from the logits [n, C] of each."""
        ...

    def score(self, figures: Figures) -> float:
        """The score that selects the best checkpoint; higher is better."""
        ...

    def write(self, output: Path, validation: list[np.ndarray], tests: list[np.ndarray]) -> None:
        """Writes predictions and reports from the logits of each set; empty lists mean that none are requested."""
        ...


@dataclass(frozen=True)
class Problem:
    """The data of a classifier and its evaluation.

    Attributes:
        names, problem_type: the label names and problem type, as in `BertConfig`.
        training: None without training.
        validation, tests: the sets to evaluate on, and the sets to predict.
        judging: computes metrics and writes predictions.
        loss: label weights and smoothing.
        long_text: how to read texts that are too long.
        kept: fields to store in the model's configuration, such as `long_text`.
        patience: evaluations without improvement before training stops; 0 disables early stopping.
    """

    names: tuple[str, ...]
    problem_type: str
    training: TextExamples | None
    validation: list[TextExamples]
    tests: list[TextExamples]
    judging: Judging
    loss: LabelLoss = LabelLoss()  # noqa: RUF009  it is frozen
    long_text: LongText = "truncate_tail"
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    patience: int = 0


def finetune(
    config: GlueConfig | ClassifierConfig, problem_of: Callable[[BertConfig | None], Problem]
) -> dict[str, float]:
    """Trains, evaluates and predicts with one seed; returns the metrics of the best checkpoint.

    Args:
        config: the flags.
        problem_of: creates the problem, given the configuration of the initial weights.
    """

    def open_task(start: Start, world: World) -> SequenceClassification:
        return _open_task(config, problem_of(start.config), start)

    return train_and_evaluate(config, cast(Mode, config.mode), open_task)


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(Task):
    """Predicts one label, several labels, or a number for a text or a text pair."""

    model_class = BertForSequenceClassification
    judged_by = "eval_score"
    evaluates_each_epoch = True

    problem: Problem
    output_dir: Path
    best: BestCheckpoint
    do_eval: bool

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """The loss, divided by the weights of the examples."""
        labels = ("label_ids",) if self.training is None else _source(self.training).label_features
        weights = "label_weights" if "label_weights" in labels else EXAMPLE_WEIGHTS
        accuracy = Figure("accuracy", EXAMPLE_WEIGHTS)
        return (LossTerm(Figure(TOTAL_LOSS, weights), labels=labels, others=(accuracy,)),)

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        return (classifier_target(self.bert, self.terms[0].loss.weights),)

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The metrics of the validation sets, and the score; keeps the best checkpoint so far."""
        figures = self.problem.judging.figures(self._logits(evaluator, self._validation, say))
        score = self.problem.judging.score(figures)
        self.best.offer(score, evaluator, self.vocabulary, say)
        return {f"eval_{name}": value for name, value in {**figures, "score": score}.items()}

    def answer(self, evaluator: Evaluator) -> dict[str, float]:
        """Writes the metrics and the predictions of the best checkpoint; returns the metrics."""
        if self.evaluates:
            evaluator = self.best.evaluator(evaluator, self.bert)
        asked = self._validation if self.do_eval else ()
        validation = self._logits(evaluator, asked, print)
        tests = self._logits(evaluator, self.evaluation[len(self.problem.validation) :], print)
        figures = self.problem.judging.figures(validation) if validation else {}
        if evaluator.world.shape.is_first:
            check_still_there(self.output_dir)
            self.output_dir.mkdir(parents=True, exist_ok=True)
            if figures:
                write_json(self.output_dir / RESULTS_FILE, figures)
            self.problem.judging.write(self.output_dir, validation, tests)
        return figures

    @property
    def _validation(self) -> tuple[Records, ...]:
        return self.evaluation[: len(self.problem.validation)]

    def _logits(self, evaluator: Evaluator, sets: tuple[Records, ...], say: Say) -> list[np.ndarray]:
        """The logits [n, C] of each set; those of a text's windows are averaged."""
        return [
            mean_by_row(evaluator.outputs(records, ("logits",), say)["logits"], _source(records).row)
            for records in sets
        ]


def classifier_target(bert: BertConfig, weights: str) -> SoftTarget:
    """The soft target of a classifier of whole texts, which `weights` has an item for."""
    kind: SoftTargetKind = "numbers" if bert.is_regression else "classes"
    if bert.problem_type == "multi_label_classification":
        kind = "labels"
    return SoftTarget("logits", weights, kind, parameters=("classifier.", "bert.pooler."))


def _source(records: Records) -> TextRecords:
    return cast(TextRecords, records.source)


def _open_task(config: GlueConfig | ClassifierConfig, problem: Problem, start: Start) -> SequenceClassification:
    """Creates the task; raises UserError if flags, vocabulary and model do not fit together."""
    flags, data = config.run, config.data
    vocabulary = find_vocabulary(start, data.vocab_file, data.do_lower_case)
    bert = config.model.bert_config(start.config, vocab_size=vocabulary.size)
    warn_of_random_weights(start, bert)
    check_sizes(start, bert, vocabulary.size, data.max_seq_length)
    drop_other_classifier(start, problem.names, flags.do_train, labels_tokens=False)
    bert = dataclasses.replace(
        bert,
        num_labels=len(problem.names),
        label_names=problem.names,
        problem_type=problem.problem_type,
        **{"labels_tokens": False, "long_text": "", "max_seq_length": 0, **problem.kept},
    )

    def records(examples: TextExamples, loss: LabelLoss = LabelLoss()) -> Records:  # noqa: B008
        source = TextRecords(
            examples,
            vocabulary,
            max_seq_length=data.max_seq_length,
            long_text=problem.long_text,
            loss=loss,
        )
        return padded(Records(source, below={"segment_ids": bert.segment_bound}), config.batch)

    return SequenceClassification(
        bert=bert,
        vocabulary=vocabulary,
        seq_length=data.max_seq_length,
        training=records(problem.training, problem.loss) if problem.training else None,
        evaluation=tuple(records(examples) for examples in (*problem.validation, *problem.tests)),
        evaluates=flags.do_train and bool(flags.do_eval) and bool(problem.validation),
        patience=problem.patience,
        problem=problem,
        output_dir=Path(flags.output_dir),
        best=BestCheckpoint.of(flags.output_dir, continued=start.checkpoint is not None),
        do_eval=bool(flags.do_eval),
    )


def drop_other_classifier(start: Start, names: tuple[str, ...], do_train: bool, *, labels_tokens: bool) -> None:
    """Drops a classifier for other labels, such as another task's, from the initial weights; keeps the encoder."""
    config = start.config
    if config is None or (
        config.num_labels == len(names) and config.label_names in ((), names) and config.labels_tokens == labels_tokens
    ):
        return
    if start.drop_weights("classifier."):
        kind = f"a {TOKEN_CLASSIFIER if config.labels_tokens else CLASSIFIER} that "
        sentence = (
            f"the classifier of {start.path} {'is ' + kind if config.labels_tokens != labels_tokens else ''}answers "
            f"{', '.join(config.shown_labels)}, not {', '.join(names)}"
        )
        if not do_train:
            raise UserError(f"{sentence}: use a model of this task, or train one with --do_train True.")
        warn(f"{sentence}: the encoder is kept.")
