"""Flags of run_glue.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.checks import MOST_TOKENS, at_least, at_most, check_seeds, given
from configs.cli import flag, section
from configs.distillation import DistillationFlags
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError

TASK_NAMES = ("cola", "mrpc", "qqp", "sst2", "stsb", "mnli", "qnli", "rte")


@dataclass(frozen=True)
class GlueDataFlags:
    """Data."""

    task_name: str = flag("", f"{', '.join(TASK_NAMES)}, or all", aliases=("dataset_name",))
    data_dir: str = flag("", "directory of the GLUE download, or the directory of one task")
    vocab_file: str | None = flag(
        None,
        "vocabulary, or a model directory",
        default_text="the model's",
        aliases=("tokenizer",),
    )
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip accents", default_text="as the tokenizer files or the entries say"
    )
    max_seq_length: int = flag(128, "longer sentences and pairs are truncated", aliases=("seq_length",), unit="tokens")
    max_train_samples: int | None = flag(None, "train on this many rows at most", default_text="all", unit="rows")
    max_val_samples: int | None = flag(
        None, "evaluate on this many rows at most", default_text="all", aliases=("max_eval_samples",), unit="rows"
    )

    strict_data: bool = flag(False, "fail if a row has too few fields, instead of skipping the row")

    def __post_init__(self) -> None:
        given(self, "task_name", "data_dir")
        if self.task_name.lower().replace("-", "") == "wnli":
            raise UserError(
                "--task_name wnli is not supported: its development set contradicts its training set, so BERT scores "
                "below the majority class unless it is trained with a special recipe."
            )
        unknown = [name for name in self.tasks if name not in TASK_NAMES]
        if unknown:
            raise UserError(f"--task_name {self.task_name} is not a GLUE task: use {', '.join(TASK_NAMES)} or all.")
        if self.max_seq_length < 5:
            raise UserError(f"--max_seq_length {self.max_seq_length} is too short for a pair: use 5 or more.")
        at_most(self, MOST_TOKENS, "max_seq_length")
        at_least(self, 1, "max_train_samples", "max_val_samples")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks to run; `SST-2` means `sst2`."""
        name = self.task_name.lower().replace("-", "")
        return TASK_NAMES if name == "all" else (name,)


@dataclass(frozen=True)
class GlueConfig:
    """The flags of run_glue.py."""

    data: GlueDataFlags = section(GlueDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, aliases={"train_batch_size": ("batch_size",)}, default_train_rows=32)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=5e-5)
    run: RunFlags = section(
        RunFlags, output_dir="glue_output", epochs=3, do_eval=True, keep_last=1, default_load_optimizer_state=False
    )
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    do_predict: bool = flag(False, "write predictions for the test sets in the format of GLUE's leaderboard")
    seeds: int = flag(
        1, "number of runs, with seeds --seed, --seed + 1, …; reports the median and the spread", unit="runs"
    )
    mode: str = flag("graph", "compile the model, or run it operation by operation", choices=("graph", "eager"))

    most_used: ClassVar[tuple[str, ...]] = (
        *("task_name", "data_dir", "init_checkpoint", "output_dir", "train_batch_size", "lr", "epochs"),
        *("max_seq_length", "seed", "seeds", "do_train", "do_eval", "do_predict", "resume"),
    )

    def __post_init__(self) -> None:
        check_seeds(self.seeds, self.run.seed, self.run.do_train)
        if not (self.run.do_train or self.run.do_eval or self.do_predict):
            raise UserError("nothing to do: remove --do_train False or --do_eval False, or pass --do_predict.")
