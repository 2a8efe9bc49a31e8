"""All flags of run_pretraining.py and run_eager_pretraining.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.cli import flag, section
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError


@dataclass(frozen=True)
class PretrainingDataFlags:
    """Data."""

    ofrecord_path: str | None = flag(
        None, "directory of the training shards, as `prepare_data.py pretraining` writes it"
    )
    val_ofrecord_path: str | None = flag(None, "directory of the evaluation shards")
    val_fraction: float = flag(0.0, "without evaluation shards: the share of the training shards to hold out")
    train_data_part: int | None = flag(None, "use this many shards (default: all)", unit="shards")
    train_dataset_size: int | None = flag(None, "records of one epoch (default: all)", unit="records")
    seq_length: int | None = flag(None, "tokens of a record (default: the data's)", aliases=("max_seq_length",))
    max_predictions_per_seq: int | None = flag(None, "masked tokens of a record, at most (default: the data's)")
    vocab_file: str | None = flag(None, "the vocabulary to save with the model (default: the data's)")
    do_lower_case: bool | None = flag(None, "whether the vocabulary is uncased (default: the data's, else True)")

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val_fraction must be at least 0 and below 1, not {self.val_fraction}.")
        for name in ("train_data_part", "train_dataset_size", "seq_length", "max_predictions_per_seq"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class PretrainingConfig:
    """Everything that a pretraining run is made of."""

    data: PretrainingDataFlags = section(PretrainingDataFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags)
    optimizer: OptimizerFlags = section(OptimizerFlags)
    run: RunFlags = section(RunFlags)
    device: DeviceFlags = section(DeviceFlags)
