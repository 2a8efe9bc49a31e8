"""The interface of training tasks, such as pretraining, question answering and classification (tasks/).

A task defines the model class, the loss terms with their metrics, and the record features it reads. It contains the
records of one run, evaluates models and writes predictions. Trainer, loop, step and journal only use this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from configs.model import BertConfig
from configs.training import BatchFlags
from conversion.tokenizer_files import Vocabulary
from data.reading.loader import Records, in_packed_rows, without_padding
from modeling.distillation import FIGURES, Distilled, Lesson, SoftTarget, distilled
from modeling.pretrained import PretrainedModel
from training.config import TrainingConfig
from training.evaluator import Evaluator, Say
from training.probes import Probes
from training.terms import INPUTS, TOTAL_LOSS, LossTerm, features_of, figures_of


@dataclass(frozen=True)
class Teacher:
    """A model to learn from, and what to learn."""

    model: PretrainedModel
    lesson: Lesson


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task with the records and the model configuration of one run."""

    model_class: ClassVar[type[PretrainedModel]]
    judged_by: ClassVar[str]  # the evaluation metric that selects the best checkpoint
    answers_change: ClassVar[bool] = (
        False  # whether a finished run evaluates again, because flags may change the answers
    )
    evaluates_each_epoch: ClassVar[bool] = False  # whether to evaluate after each epoch by default
    inputs: ClassVar[tuple[str, ...]] = INPUTS  # the record features that the model reads in addition to the labels

    bert: BertConfig
    vocabulary: Vocabulary | None  # saved with the model
    seq_length: int
    training: Records | None  # None: the run does not train
    evaluation: tuple[Records, ...]  # all sets for evaluation or prediction
    evaluates: bool  # whether to evaluate, during or instead of training
    patience: int = 0  # early stopping after this many evaluations without improvement; 0 disables it
    train_figures_every: int = (
        0  # steps between training rows with metrics that only evaluation computes; 0 disables them
    )
    predictions: int = 0  # positions per record that are decoded, for counting operations
    probes: Probes | None = None  # commands that probe checkpoints
    teacher: Teacher | None = None  # with --teacher

    def build(self, bert: BertConfig, seed: int) -> PretrainedModel:
        """The model with initial weights."""
        return self.built_class(bert, seed)

    def build_student(self, bert: BertConfig, seed: int) -> PretrainedModel:
        """The model with initial weights, and with its teacher if it has one."""
        model = self.build(bert, seed)
        if self.teacher:
            assert isinstance(model, Distilled)
            model.learn_from(self.teacher.model, self.teacher.lesson)
        return model

    @property
    def built_class(self) -> type[PretrainedModel]:
        """The class that `build` instantiates."""
        return distilled(self.plain_class) if self.teacher else self.plain_class

    @property
    def plain_class(self) -> type[PretrainedModel]:
        """The class of the model without a teacher."""
        return self.model_class

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        """The model's outputs that a teacher can teach; none if the task does not support teachers."""
        return ()

    @property
    @abstractmethod
    def terms(self) -> tuple[LossTerm, ...]:
        """The summands of the total loss in training."""

    @abstractmethod
    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """Evaluates the evaluator's model; returns {"eval_…": value}, at least on the first rank."""

    def answer(self, evaluator: Evaluator) -> dict[str, float]:
        """Writes the requested predictions after the run; returns the metrics of the run."""
        return {}

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """Prefixes of the names of parameters that do not affect evaluations, so that weights may lack them."""
        return ()

    @property
    def features(self) -> tuple[str, ...]:
        """The record features that training reads."""
        return features_of(self.inputs, self.terms)

    @property
    def log_line(self) -> tuple[str, ...]:
        """The metrics in the log line of training, in order; missing ones are omitted."""
        shown = (figure.name for figure in figures_of(self.terms) if figure.in_log_line)
        return (TOTAL_LOSS, *shown, *(FIGURES if self.teacher else ()), "throughput")

    def row(self, outputs: Mapping[str, float]) -> dict[str, float]:
        """The outputs of a training step, renamed for metrics.jsonl; renamed ones come last."""
        renamed = {figure.output: figure.name for figure in figures_of(self.terms) if figure.name != figure.output}
        kept = {name: value for name, value in outputs.items() if name not in renamed}
        return kept | {name: outputs[output] for output, name in renamed.items() if output in outputs}


def padded(records: Records, flags: BatchFlags) -> Records:
    """The records, with batches padded as --padding says."""
    padding = flags.padding or ("longest" if records.known_lengths is not None else "max_length")
    if padding == "max_length":
        return records
    return replace(without_padding(records), packs=padding == "none")


AnyTask = TypeVar("AnyTask", bound=Task)


def in_rows(task: AnyTask, config: TrainingConfig, data_parallel_size: int) -> AnyTask:
    """The task, with its training records in packed rows if --packing says so."""
    if config.batch.packing == "none" or task.training is None:
        return task
    tokens = config.batch.train_rows(data_parallel_size) * task.seq_length
    return replace(task, training=in_packed_rows(padded(task.training, config.batch), tokens, config.run.seed))
