"""Flags of run_ner.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.checks import MOST_TOKENS, at_least, at_most, check_seeds
from configs.cli import flag, section
from configs.distillation import DistillationFlags
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError


@dataclass(frozen=True)
class TaggingDataFlags:
    """Data."""

    train_file: str | None = flag(
        None, "tagged sentences to train on: CoNLL columns, or JSON lines with tokens and tags, also with .gz"
    )
    validation_file: str | None = flag(None, "tagged sentences for selecting the best checkpoint")
    test_file: str | None = flag(
        None, "sentences to tag in predictions.jsonl", default_text="those of --validation_file"
    )
    token_column: str = flag("1", "column of the words (counted from 1), or their key in JSON lines", metavar="COLUMN")
    tag_column: str | None = flag(
        None,
        "column of the tags (counted from 1, or from the end if negative), or their key in JSON lines",
        default_text="the last column, or tags",
        metavar="COLUMN",
    )
    scheme: str = flag(
        "auto",
        "how tags mark entities; none: tags without prefixes, such as parts of speech",
        choices=("auto", "iob1", "iob2", "bioes", "none"),
    )
    vocab_file: str | None = flag(
        None, "vocabulary, or a model directory", default_text="the model's", aliases=("tokenizer",)
    )
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip accents", default_text="as the tokenizer files or the entries say"
    )
    max_seq_length: int = flag(
        128, "maximum input length; longer sentences are split into windows", aliases=("seq_length",), unit="tokens"
    )
    doc_stride: int | None = flag(
        None,
        "distance from the start of one window to the next",
        default_text="half of --max_seq_length",
        unit="tokens",
    )
    max_train_samples: int | None = flag(
        None, "train on this many sentences at most", default_text="all", unit="sentences"
    )
    max_val_samples: int | None = flag(
        None,
        "evaluate on this many sentences at most",
        default_text="all",
        aliases=("max_eval_samples",),
        unit="sentences",
    )

    def __post_init__(self) -> None:
        at_least(self, 3, "max_seq_length")
        at_least(self, 1, "doc_stride", "max_train_samples", "max_val_samples")
        at_most(self, MOST_TOKENS, "max_seq_length", "doc_stride")

    @property
    def stride(self) -> int:
        """Tokens from the start of one window to the next."""
        return self.doc_stride or max(self.max_seq_length // 2, 1)


@dataclass(frozen=True)
class TaggingConfig:
    """The flags of run_ner.py."""

    data: TaggingDataFlags = section(TaggingDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, aliases={"train_batch_size": ("batch_size",)}, default_train_rows=32)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=5e-5)
    run: RunFlags = section(
        RunFlags, output_dir="ner_output", epochs=3, do_eval=True, keep_last=1, default_load_optimizer_state=False
    )
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    early_stopping_patience: int = flag(
        0, "stop after this many evaluations without improvement; 0 disables early stopping", unit="evaluations"
    )
    seeds: int = flag(
        1, "number of runs, with seeds --seed, --seed + 1, …; reports the median and the spread", unit="runs"
    )
    mode: str = flag("graph", "compile the model, or run it operation by operation", choices=("graph", "eager"))

    most_used: ClassVar[tuple[str, ...]] = (
        *("train_file", "validation_file", "test_file", "tag_column", "init_checkpoint", "output_dir"),
        *("train_batch_size", "lr", "epochs", "max_seq_length", "seed", "seeds", "do_train", "resume"),
    )

    def __post_init__(self) -> None:
        check_seeds(self.seeds, self.run.seed, self.run.do_train)
        at_least(self, 0, "early_stopping_patience")
        data = self.data
        if self.run.do_train and not data.train_file:
            raise UserError("--train_file is missing: pass a file of tagged sentences, or pass --do_train False.")
        if not self.run.do_train and not (data.test_file or (self.run.do_eval and data.validation_file)):
            raise UserError("nothing to do without training: pass --validation_file or --test_file.")
        if self.early_stopping_patience and not (self.run.do_eval and data.validation_file):
            raise UserError("--early_stopping_patience needs evaluations: pass --validation_file.")
