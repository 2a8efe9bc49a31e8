"""Flags that every training command shares, in sections; the knobs that change results stand apart from those that
change only the speed."""

from __future__ import annotations

from dataclasses import dataclass

from configs.cli import flag
from utils.errors import UserError

# Flags of engines that no longer exist: accepted, without effect, with what to use instead.
RETIRED = {
    "use_xla": "OneFlow 0.9 has no XLA; graph mode compiles by itself.",
    "node_ips": "start every host with python3 -m oneflow.distributed.launch --nnodes N --node_rank I --master_addr A.",
    "ctrl_port": "give the launcher --master_port.",
    "gpu_num_per_node": "give the launcher --nproc_per_node.",
    "num_nodes": "give the launcher --nnodes.",
    "metric-local": "metrics are always over all ranks.",
    "save_last_snapshot": "the last checkpoint is always kept.",
    "model": "--model_size chooses the model.",
}


@dataclass(frozen=True)
class BatchFlags:
    """Batches."""

    train_batch_size: int | None = flag(
        None, "one rank's micro-batch (default: 8)", aliases=("batch_size_per_device",), unit="sequences"
    )
    train_global_batch_size: int | None = flag(None, "micro-batch of all ranks together", unit="sequences")
    val_batch_size: int | None = flag(
        None, "one rank's evaluation batch (default: 32)", aliases=("eval_batch_size_per_device",), unit="sequences"
    )
    val_global_batch_size: int | None = flag(None, "evaluation batch of all ranks together", unit="sequences")
    grad_acc_steps: int = flag(1, "micro-batches whose gradients are added up for one update")

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "train_global_batch_size", "val_batch_size", "val_global_batch_size"):
            _at_least(self, name, 1)
        _at_least(self, "grad_acc_steps", 1)

    def train_rows(self, world_size: int) -> int:
        """Rows of one micro-batch on one rank."""
        return _per_rank("train", self.train_batch_size, self.train_global_batch_size, world_size, 8)

    def val_rows(self, world_size: int) -> int:
        """Rows of one evaluation batch on one rank."""
        return _per_rank("val", self.val_batch_size, self.val_global_batch_size, world_size, 32)


@dataclass(frozen=True)
class OptimizerFlags:
    """Optimizer."""

    optim_name: str = flag(
        "adamw",
        "adamw corrects the moments' bias, bert_adam does not, as Google's; lamb is for large batches",
        choices=("adamw", "bert_adam", "lamb"),
    )
    lr: float = flag(1e-3, "highest learning rate", aliases=("learning_rate",))
    weight_decay: float = flag(0.01, "decoupled decay, not on biases and LayerNorm", aliases=("weight_decay_rate",))
    adam_beta1: float = flag(0.9, "decay of the first moment")
    adam_beta2: float = flag(0.999, "decay of the second moment")
    adam_epsilon: float = flag(1e-6, "added to the second moment's root")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this global norm; 0: never")
    lr_schedule: str = flag(
        "linear", "the learning rate after warmup", choices=("linear", "polynomial", "constant", "cosine")
    )
    warmup_proportion: float = flag(0.1, "share of the steps in which the learning rate rises from 0")
    warmup_steps: int | None = flag(None, "the same as a number; wins over the share", unit="steps")
    lr_decay_power: float = flag(1.0, "power of the polynomial schedule")
    end_learning_rate: float = flag(0.0, "learning rate at the end of linear, polynomial and cosine schedules")
    stock_lamb: bool = flag(False, "take OneFlow's own LAMB, which leaves weight decay out of the trust ratio")

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "end_learning_rate"):
            _at_least(self, name, 0)
        if not 0 <= self.warmup_proportion <= 1:
            raise UserError(f"--warmup_proportion must be between 0 and 1, not {self.warmup_proportion}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 0 and below 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class RunFlags:
    """Run."""

    output_dir: str = flag("output", "checkpoints, logs and metrics live here")
    checkpoint_path: str | None = flag(
        None, "checkpoints live here instead (default: --output_dir)", aliases=("model_save_dir",)
    )
    log_dir: str | None = flag(None, "logs and metrics live here instead (default: --output_dir)")
    epochs: float = flag(1, "passes over the training data", aliases=("e", "num_epochs", "num_epoch"))
    max_steps: int | None = flag(None, "updates to make; wins over --epochs", unit="steps")
    seed: int = flag(42, "decides the first weights, the order of the data and dropout")
    resume: bool = flag(False, "go on from the newest checkpoint, or start if there is none")
    overwrite_output_dir: bool = flag(False, "remove what an earlier run left in the output directory")
    keep_last: int = flag(3, "checkpoints to keep; 0: all")
    model_save_every_n_iter: int = flag(
        10000, "steps between checkpoints; the last step always has one", aliases=("model_save_every_n_iters",)
    )
    loss_print_every_n_iters: int = flag(20, "steps between log lines", aliases=("loss_print_every_n_iter",))
    val_print_every_n_iters: int = flag(20, "evaluation batches between its progress lines")
    eval_every_n_iters: int = flag(0, "steps between evaluations; 0: at the end alone")
    do_train: bool = flag(True, "train")
    do_eval: bool = flag(True, "evaluate, where evaluation data is given")

    def __post_init__(self) -> None:
        for name in ("loss_print_every_n_iters", "val_print_every_n_iters", "model_save_every_n_iter", "max_steps"):
            _at_least(self, name, 1)
        for name in ("keep_last", "eval_every_n_iters", "seed"):
            _at_least(self, name, 0)
        if self.epochs <= 0:
            raise UserError(f"--epochs must be above 0, not {self.epochs}.")


@dataclass(frozen=True)
class DeviceFlags:
    """Devices and speed (nothing here changes what is computed, but for rounding)."""

    with_cuda: bool | None = flag(None, "train on CUDA (default: if it is usable)")
    cuda_devices: tuple[int, ...] = flag((), "the CUDA devices to use, by number")
    use_ddp: bool = flag(False, "eager mode: average gradients over the launcher's processes")
    use_consistent: bool = flag(False, "graph mode: global tensors over the launcher's processes")
    use_fp16: bool = flag(False, "half-precision products: fp16 on CUDA, bf16 on CPUs that have it")
    nccl_fusion_threshold_mb: int = flag(
        16, "graph mode on CUDA: gradients are sent in pieces up to this size", unit="MB"
    )
    nccl_fusion_max_ops: int = flag(24, "graph mode on CUDA: gradients in one piece, at most")
    num_threads: int | None = flag(None, "CPU threads of this process (default: the cores, shared by its host's ranks)")
    cpu_kernels: bool = flag(True, "use the CPU kernels built by `make setup`")
    profile: bool = flag(False, "print the time per operation at the end")

    def __post_init__(self) -> None:
        _at_least(self, "num_threads", 1)
        for name in ("nccl_fusion_threshold_mb", "nccl_fusion_max_ops"):
            _at_least(self, name, 0)


def _at_least(flags: object, name: str, least: int) -> None:
    value = getattr(flags, name)
    if value is not None and value < least:
        raise UserError(f"--{name} must be at least {least}, not {value}.")


def _per_rank(kind: str, per_rank: int | None, total: int | None, world_size: int, default: int) -> int:
    if total is None:
        return per_rank or default
    if total % world_size:
        raise UserError(
            f"--{kind}-global-batch-size {total} cannot be shared by {world_size} ranks: choose a multiple."
        )
    if per_rank is not None and per_rank * world_size != total:
        raise UserError(
            f"--{kind}-batch-size {per_rank} on {world_size} ranks makes {per_rank * world_size}, "
            f"not --{kind}-global-batch-size {total}: give one of them."
        )
    return total // world_size
