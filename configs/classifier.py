"""Flags of run_classifier.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from configs.checks import MOST_TOKENS, at_least, at_most, check_seeds, given
from configs.cli import flag, section
from configs.distillation import DistillationFlags
from configs.model import LongText, ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError

PROBLEM_TYPES = ("single_label", "multi_label", "regression")
# The metrics that can select the best checkpoint; see evaluation/classification.py.
BEST_METRICS = (
    *("accuracy", "macro_f1", "micro_f1", "matthews_correlation", "mean_average_precision"),
    *("pearson", "spearman", "rmse", "pearson_spearman"),
)


@dataclass(frozen=True)
class ClassifierDataFlags:
    """Data."""

    train_file: str | None = flag(None, "texts and labels to train on: CSV, TSV or JSON lines, also with .gz")
    validation_file: str | None = flag(None, "texts and labels for selecting the best checkpoint")
    test_file: str | None = flag(None, "texts to label in predictions.csv", default_text="the validation data")
    validation_fraction: float = flag(
        0.0, "without --validation_file: fraction of the training rows to hold out, the same for every label"
    )
    text_column: str | None = flag(None, "column of the texts", default_text="guessed", metavar="NAME")
    text_pair_column: str | None = flag(
        None, "column of the second texts of pairs", default_text="guessed by name, or none", metavar="NAME"
    )
    label_column: str | None = flag(None, "column of the labels", default_text="guessed", metavar="NAME")
    delimiter: str | None = flag(
        None, "character between two fields, or tab", default_text="comma; tab in .tsv", metavar="CHARACTER"
    )
    header: bool = flag(True, "the first row names the columns; False names them 1, 2, …")
    problem_type: str | None = flag(
        None,
        "the label column: one label per text, any number of labels, or a number",
        default_text="guessed",
        choices=PROBLEM_TYPES,
    )
    label_separator: str = flag("|", "multi_label: separator between the labels in one field")
    vocab_file: str | None = flag(
        None,
        "vocabulary, or a model directory",
        default_text="the model's",
        aliases=("tokenizer",),
    )
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip accents", default_text="as the tokenizer files or the entries say"
    )
    max_seq_length: int = flag(128, "longest input of the model", aliases=("seq_length",), unit="tokens")
    long_text: str = flag(
        "truncate_tail",
        "texts longer than --max_seq_length: cut off the end or the beginning, keep a quarter from the beginning and "
        "the rest from the end, or average over overlapping windows",
        choices=get_args(LongText),
    )
    max_train_samples: int | None = flag(None, "train on this many rows at most", default_text="all", unit="rows")
    max_val_samples: int | None = flag(
        None, "evaluate on this many rows at most", default_text="all", aliases=("max_eval_samples",), unit="rows"
    )

    def __post_init__(self) -> None:
        given(self, "label_separator")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"--validation_fraction must be at least 0 and below 1, not {self.validation_fraction}.")
        if self.validation_fraction and self.validation_file:
            raise UserError("--validation_fraction and --validation_file cannot be combined: pass only one of them.")
        if self.max_seq_length < 5:
            raise UserError(f"--max_seq_length {self.max_seq_length} is too short for a pair: use 5 or more.")
        at_most(self, MOST_TOKENS, "max_seq_length")
        at_least(self, 1, "max_train_samples", "max_val_samples")


@dataclass(frozen=True)
class ClassifierLossFlags:
    """Loss and best checkpoint."""

    class_weights: str | None = flag(
        None,
        "label weights in the loss: balanced (by inverse frequency), or a JSON file {label: weight}",
        default_text="all equal",
        metavar="balanced|FILE",
    )
    label_smoothing: float = flag(0.0, "fraction of the target that is spread over all labels")
    best_metric: str | None = flag(
        None,
        "metric that selects the best checkpoint",
        default_text="accuracy; micro_f1 for several labels; the mean of pearson and spearman for numbers",
        aliases=("metric_for_best_model",),
        choices=BEST_METRICS,
    )
    early_stopping_patience: int = flag(
        0, "stop after this many evaluations without improvement; 0 disables early stopping", unit="evaluations"
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "early_stopping_patience")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label_smoothing must be at least 0 and below 1, not {self.label_smoothing}.")


@dataclass(frozen=True)
class ClassifierConfig:
    """The flags of run_classifier.py."""

    data: ClassifierDataFlags = section(ClassifierDataFlags)
    loss: ClassifierLossFlags = section(ClassifierLossFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, aliases={"train_batch_size": ("batch_size",)}, default_train_rows=32)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=5e-5)
    run: RunFlags = section(
        RunFlags,
        output_dir="classifier_output",
        epochs=3,
        do_eval=True,
        keep_last=1,
        default_load_optimizer_state=False,
    )
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    seeds: int = flag(
        1, "number of runs, with seeds --seed, --seed + 1, …; reports the median and the spread", unit="runs"
    )
    mode: str = flag("graph", "compile the model, or run it operation by operation", choices=("graph", "eager"))

    most_used: ClassVar[tuple[str, ...]] = (
        *("train_file", "validation_file", "test_file", "text_column", "text_pair_column", "label_column"),
        *("problem_type", "init_checkpoint", "output_dir", "train_batch_size", "lr", "epochs", "max_seq_length"),
        *("long_text", "seed", "seeds", "do_train", "resume"),
    )

    def __post_init__(self) -> None:
        check_seeds(self.seeds, self.run.seed, self.run.do_train)
        data = self.data
        if self.run.do_train and not data.train_file:
            raise UserError("--train_file is missing: pass a file of texts and labels, or pass --do_train False.")
        if not self.run.do_train and not (data.test_file or (self.run.do_eval and data.validation_file)):
            raise UserError("nothing to do without training: pass --validation_file or --test_file.")
        evaluates = self.run.do_eval and (data.validation_file or data.validation_fraction)
        if self.loss.early_stopping_patience and not evaluates:
            raise UserError(
                "--early_stopping_patience needs evaluations: pass --validation_file or --validation_fraction."
            )
