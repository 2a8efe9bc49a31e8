"""All flags of run_glue.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import at_least
from configs.cli import flag, section
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError

TASK_NAMES = ("cola", "mrpc", "qqp", "sst2", "stsb", "mnli", "qnli", "rte")


@dataclass(frozen=True)
class GlueDataFlags:
    """Data."""

    task_name: str = flag("", f"{', '.join(TASK_NAMES)}, or all of them", aliases=("dataset_name",))
    data_dir: str = flag("", "the GLUE download, or one task's directory in it")
    vocab_file: str | None = flag(
        None, "vocabulary; a model directory stands for its own (default: the model's)", aliases=("tokenizer",)
    )
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip its accents (default: as the model's tokenizer needs it)"
    )
    max_seq_length: int = flag(128, "longer sentences and pairs are cut", aliases=("seq_length",), unit="tokens")
    max_train_samples: int | None = flag(None, "train on the first so many rows (default: all)", unit="rows")
    max_val_samples: int | None = flag(
        None, "evaluate on the first so many rows (default: all)", aliases=("max_eval_samples",), unit="rows"
    )

    def __post_init__(self) -> None:
        for name in ("task_name", "data_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: see --help.")
        if self.task_name.lower().replace("-", "") == "wnli":
            raise UserError(
                "--task_name wnli is not supported: its development set contradicts its training set, so that BERT "
                "falls below always giving the commonest answer unless it is trained by a recipe of its own."
            )
        unknown = [name for name in self.tasks if name not in TASK_NAMES]
        if unknown:
            raise UserError(f"--task_name {self.task_name} is not a GLUE task: use {', '.join(TASK_NAMES)} or all.")
        if self.max_seq_length < 5:
            raise UserError(f"--max_seq_length {self.max_seq_length} leaves no room for a pair: use 5 or more.")
        at_least(self, 1, "max_train_samples", "max_val_samples")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks asked for; `SST-2` is taken for `sst2`."""
        name = self.task_name.lower().replace("-", "")
        return TASK_NAMES if name == "all" else (name,)


@dataclass(frozen=True)
class GlueConfig:
    """Everything that a run of run_glue.py is made of."""

    data: GlueDataFlags = section(GlueDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, default_train_rows=32)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=5e-5)
    run: RunFlags = section(RunFlags, output_dir="glue_output", epochs=3, keep_last=1, goes_on=False)
    device: DeviceFlags = section(DeviceFlags)
    do_predict: bool = flag(False, "write the test sets' answers for GLUE's leaderboard")
    seeds: int = flag(1, "train so many times, from --seed on, and report the median and the spread")
    mode: str = flag("graph", "compiled, or operation by operation", choices=("graph", "eager"))

    def __post_init__(self) -> None:
        at_least(self, 1, "seeds")
        if not (self.run.do_train or self.run.do_eval or self.do_predict):
            raise UserError("nothing to do: leave out --do_train False or --do_eval False, or give --do_predict.")
        if self.seeds > 1 and not self.run.do_train:
            raise UserError("--seeds trains several times: leave it out with --do_train False.")
