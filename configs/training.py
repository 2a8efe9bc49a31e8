"""Flags that every training command shares, in sections; the knobs that change results stand apart from those that
change only the speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from configs.checks import at_least
from configs.cli import flag
from utils.errors import UserError

# Flags of engines and launchers that are not here: accepted, without effect, with what to use instead.
_LAUNCHER = "start on several hosts with python3 -m oneflow.distributed.launch (docs/distributed.md)."
RETIRED = {
    "use_xla": "OneFlow 0.9 has no XLA; graph mode compiles by itself.",
    "node_ips": "start every host with python3 -m oneflow.distributed.launch --nnodes N --node_rank I --master_addr A.",
    "ctrl_port": "give the launcher --master_port.",
    "gpu_num_per_node": "give the launcher --nproc_per_node.",
    "num_nodes": "give the launcher --nnodes.",
    "metric-local": "metrics are always over all ranks.",
    "save_last_snapshot": "the last checkpoint is always kept.",
    "model": "--model_size chooses the model.",
    "model_type": "there is one model here, and --objective sop makes it learn ALBERT's sentence order.",
    "squad_version": "--version_2_with_negative True says that some questions have no answer (SQuAD 2.0), to "
    "run_squad.py or in --squad_config.",
    "skip_xla": "OneFlow 0.9 has no XLA; graph mode compiles by itself.",
    **dict.fromkeys(("source_dir", "entry_point", "sm_job_name", "instance_type", "instance_count", "name"), _LAUNCHER),
    "evaluation_strategy": "--eval_every_n_iters N evaluates every N steps, 0 at the end alone.",
    "save_strategy": "--model_save_every_n_iter N saves every N steps.",
    "eval_accumulation_steps": "evaluation keeps sums, not outputs; --val_batch_size is what it takes at once.",
    "dataloader_drop_last": "every record counts once; the last batch is filled up with rows of weight 0.",
    "dataloader_num_workers": "a thread reads ahead; it needs no number.",
    "remove_unused_columns": "only what the model needs is read.",
    "label_names": "--skip_nsp leaves the next-sentence labels out, --eval_only_mlm does so for evaluation.",
    "datasets_cache_dir": "records are read where they are.",
    "overwrite_cache": "records are read where they are.",
}


@dataclass(frozen=True)
class BatchFlags:
    """Batches."""

    train_batch_size: int | None = flag(
        None,
        "one rank's micro-batch (default: 8)",
        aliases=("batch_size_per_device", "per_gpu_batch_size", "per_device_train_batch_size"),
        unit="sequences",
    )
    train_global_batch_size: int | None = flag(None, "micro-batch of all ranks together", unit="sequences")
    val_batch_size: int | None = flag(
        None,
        "one rank's evaluation batch (default: 32)",
        aliases=("eval_batch_size_per_device", "per_device_eval_batch_size"),
        unit="sequences",
    )
    val_global_batch_size: int | None = flag(None, "evaluation batch of all ranks together", unit="sequences")
    grad_acc_steps: int = flag(
        1, "micro-batches whose gradients are added up for one update", aliases=("gradient_accumulation_steps",)
    )
    grad_acc_ramp_steps: int = flag(
        0, "batch-size schedule: the micro-batches of an update grow from 1 to --grad_acc_steps over these updates"
    )
    padding: str | None = flag(
        None,
        "what batches are padded to: the records' full length, or the longest of the update, whose records are then of "
        "like length (default: longest for sets made with --bin_size, else max_length)",
        choices=("max_length", "longest"),
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "train_batch_size", "train_global_batch_size", "val_batch_size", "val_global_batch_size")
        at_least(self, 1, "grad_acc_steps")
        at_least(self, 0, "grad_acc_ramp_steps")

    default_train_rows: ClassVar[int] = 8
    default_val_rows: ClassVar[int] = 32

    def train_rows(self, world_size: int) -> int:
        """Rows of one micro-batch on one rank."""
        return _per_rank(
            "train", self.train_batch_size, self.train_global_batch_size, world_size, self.default_train_rows
        )

    def val_rows(self, world_size: int) -> int:
        """Rows of one evaluation batch on one rank."""
        return _per_rank("val", self.val_batch_size, self.val_global_batch_size, world_size, self.default_val_rows)


@dataclass(frozen=True)
class OptimizerFlags:
    """Optimizer."""

    optim_name: str = flag(
        "adamw",
        "adamw corrects the moments' bias, bert_adam does not, as Google's; adam has no weight decay; "
        "lamb is for large batches",
        aliases=("optimizer",),
        choices=("adamw", "bert_adam", "adam", "lamb"),
    )
    lr: float = flag(1e-3, "highest learning rate", aliases=("learning_rate",))
    weight_decay: float = flag(0.01, "decoupled decay, not on biases and LayerNorm", aliases=("weight_decay_rate",))
    adam_beta1: float = flag(0.9, "decay of the first moment")
    adam_beta2: float = flag(0.999, "decay of the second moment")
    adam_epsilon: float = flag(1e-6, "added to the second moment's root")
    clip: str = flag("norm", "how gradients are kept small", choices=("norm", "value", "none"))
    max_grad_norm: float = flag(1.0, "clip norm: gradients are scaled down to this global norm; 0: never")
    clip_value: float = flag(1.0, "clip value: each number of a gradient is cut at this size")
    lr_schedule: str | None = flag(
        None,
        "the learning rate after warmup; onecycle is optax's linear one (default: linear, or polynomial where "
        "--lr_decay_power is given)",
        aliases=("lr_scheduler_type",),
        choices=("linear", "polynomial", "constant", "cosine", "onecycle"),
    )
    warmup_proportion: float = flag(0.1, "share of the steps in which the learning rate rises")
    warmup_steps: int | None = flag(None, "the same as a number; wins over the share", unit="steps")
    lr_decay_from: str = flag(
        "warmup",
        "where the decay begins to count: at the end of warmup (Hugging Face, AWS) or at the run's start (Google, "
        "NVIDIA), so that warmup ends below --lr",
        choices=("warmup", "start"),
    )
    lr_first_step: int | None = flag(
        None,
        "the first update's number in the formulas: 0 (Google, Hugging Face) or 1 (AWS, NVIDIA) "
        "(default: 1 for polynomial, else 0)",
    )
    lr_decay_power: float | None = flag(
        None,
        "power of the polynomial schedule (default: 1); given alone, it asks for that schedule",
        aliases=("learning_rate_decay_power",),
    )
    end_learning_rate: float = flag(0.0, "learning rate at the end of linear, polynomial and cosine schedules")
    onecycle_pct_final: float = flag(0.85, "onecycle: share of the steps at which it is down at its first value again")
    onecycle_div_factor: float = flag(25.0, "onecycle: the highest learning rate over the first")
    onecycle_final_div_factor: float = flag(1e4, "onecycle: the first learning rate over the last")
    lr_for_batch: int | None = flag(
        None, "--lr is for updates of so many sequences; other sizes scale it by the square root of their ratio"
    )
    stock_lamb: bool = flag(False, "graph mode without CPU kernels: OneFlow's LAMB, whose trust ratio is another")

    def __post_init__(self) -> None:
        at_least(self, 0, "lr", "weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "end_learning_rate")
        at_least(self, 1, "lr_for_batch")
        for name in ("clip_value", "lr_decay_power", "onecycle_div_factor", "onecycle_final_div_factor"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name} must be above 0, not {value}.")
        if self.lr_schedule not in (None, "polynomial") and self.lr_decay_power not in (None, 1):
            raise UserError(f"--lr_decay_power shapes --lr_schedule polynomial, not {self.lr_schedule}: drop one.")
        if self.lr_first_step not in (None, 0, 1):
            raise UserError(f"--lr_first_step must be 0 or 1, not {self.lr_first_step}.")
        if not 0 < self.onecycle_pct_final < 1:
            raise UserError(f"--onecycle_pct_final must be above 0 and below 1, not {self.onecycle_pct_final}.")
        if not 0 <= self.warmup_proportion <= 1:
            raise UserError(f"--warmup_proportion must be between 0 and 1, not {self.warmup_proportion}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 0 and below 1, not {getattr(self, name)}.")

    @property
    def schedule(self) -> str:
        """The schedule's name."""
        return self.lr_schedule or ("linear" if self.lr_decay_power is None else "polynomial")

    @property
    def norm_limit(self) -> float:
        """The global norm that gradients are scaled down to; 0: never."""
        return self.max_grad_norm if self.clip == "norm" else 0.0


@dataclass(frozen=True)
class RunFlags:
    """Run."""

    # Whether --load_from checkpoint takes the optimizer and the step along where --load_optimizer_state is not given.
    goes_on: ClassVar[bool] = True
    output_dir: str = flag("output", "checkpoints, logs and metrics live here")
    checkpoint_path: str | None = flag(
        None, "checkpoints live here instead (default: --output_dir)", aliases=("model_save_dir",)
    )
    log_dir: str | None = flag(
        None, "logs and metrics live here instead (default: --output_dir)", aliases=("logging_dir",)
    )
    load_from: str | None = flag(
        None,
        "what to start from: nothing, --checkpoint_path (saving then goes to --output_dir), or --init_checkpoint, by "
        "default Google's model of --model_size from the hub",
        choices=("scratch", "checkpoint", "huggingface"),
    )
    load_optimizer_state: bool | None = flag(
        None,
        "with --load_from checkpoint: go on with its optimizer and step, or begin at step 0 (default: go on; "
        "fine-tuning: begin)",
    )
    run_name: str | None = flag(None, "the run's name in its log (default: composed of what it trains)")
    epochs: float = flag(1, "passes over the training data", aliases=("e", "num_epochs", "num_epoch"))
    max_steps: int | None = flag(None, "updates to make; wins over --epochs", aliases=("total_steps",), unit="steps")
    seed: int = flag(42, "decides the first weights, the order of the data and dropout")
    resume: bool = flag(False, "go on from the newest checkpoint, or start if there is none")
    overwrite_output_dir: bool = flag(False, "remove what an earlier run left in the output directory")
    keep_last: int = flag(3, "checkpoints to keep; 0: all")
    model_save_every_n_iter: int = flag(
        10000,
        "steps between checkpoints; the last step always has one",
        aliases=("model_save_every_n_iters", "save_steps", "checkpoint_frequency"),
    )
    loss_print_every_n_iters: int = flag(
        20, "steps between log lines", aliases=("loss_print_every_n_iter", "logging_steps", "log_frequency")
    )
    logging_first_step: bool = flag(False, "log the first step too")
    val_print_every_n_iters: int = flag(20, "evaluation batches between its progress lines")
    eval_every_n_iters: int = flag(
        0,
        "steps between evaluations; 0: at the end alone",
        aliases=("eval_steps", "validation_frequency", "evaluate_frequency"),
    )
    eval_at_start: bool = flag(False, "evaluate before the first step too")
    do_train: bool = flag(True, "train")
    do_eval: bool = flag(True, "evaluate, where evaluation data is given")

    def __post_init__(self) -> None:
        at_least(self, 1, "loss_print_every_n_iters", "val_print_every_n_iters", "model_save_every_n_iter", "max_steps")
        at_least(self, 0, "keep_last", "eval_every_n_iters", "seed")
        if self.load_from == "checkpoint" and not self.checkpoint_path:
            raise UserError("--load_from checkpoint needs --checkpoint_path: the checkpoint to start from.")
        if self.load_optimizer_state is not None and self.load_from != "checkpoint":
            raise UserError("--load_optimizer_state belongs to --load_from checkpoint; --resume goes on with a run.")
        if self.epochs <= 0:
            raise UserError(f"--epochs must be above 0, not {self.epochs}.")

    def below(self, *parts: str) -> RunFlags:
        """The same run in directories of its own, inside those that are named."""

        def inside(directory: str | None) -> str | None:
            return directory and str(Path(directory, *parts))

        return replace(
            self,
            output_dir=str(Path(self.output_dir, *parts)),
            checkpoint_path=self.checkpoint_path if self.load_from else inside(self.checkpoint_path),
            log_dir=inside(self.log_dir),
        )


@dataclass(frozen=True)
class DeviceFlags:
    """Devices and speed (nothing here changes what is computed, but for rounding)."""

    with_cuda: bool | None = flag(None, "train on CUDA (default: if it is usable)")
    device: str | None = flag(None, "the same in a word", choices=("cpu", "cuda"))
    cuda_devices: tuple[int, ...] = flag((), "the CUDA devices to use, by number", per_host=True)
    use_ddp: bool = flag(False, "eager mode: average gradients over the launcher's processes")
    use_consistent: bool = flag(False, "graph mode: global tensors over the launcher's processes")
    use_fp16: bool = flag(False, "half-precision products: fp16 on CUDA, bf16 on CPUs that have it")
    nccl_fusion_threshold_mb: int = flag(
        16, "graph mode on CUDA: gradients are sent in pieces up to this size", unit="MB"
    )
    nccl_fusion_max_ops: int = flag(24, "graph mode on CUDA: gradients in one piece, at most")
    join_timeout: float = flag(
        300.0, "several processes: wait so long for the others at the start", unit="s", per_host=True
    )
    stop_timeout: float = flag(
        60.0, "several processes: time to save and leave after SIGTERM or Ctrl-C", unit="s", per_host=True
    )
    num_threads: int | None = flag(
        None, "CPU threads of this process (default: the cores, shared by its host's ranks)", per_host=True
    )
    cpu_kernels: bool = flag(True, "use the CPU kernels built by `make setup`")
    activation_checkpointing: bool = flag(
        False,
        "eager mode: keep each layer's input alone and compute the layer again for its backward pass",
        aliases=("checkpoint_activations", "gradient_checkpointing"),
    )
    profile: bool = flag(False, "print the time per operation at the end", per_host=True)

    def __post_init__(self) -> None:
        at_least(self, 1, "num_threads")
        at_least(self, 0, "nccl_fusion_threshold_mb", "nccl_fusion_max_ops")


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
