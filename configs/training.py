"""Flags shared by all training commands. Flags that affect the result are separate from those that affect the speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from configs.checks import MOST_ROWS, MOST_SEED, MOST_STEPS, above, at_least, at_most, local, threads
from configs.cli import flag
from utils.errors import UserError

# Flags of other engines and launchers that are accepted without effect, with what to use instead.
_LAUNCHER = "start a job on several hosts with python3 -m oneflow.distributed.launch (docs/distributed.md)."
RETIRED = {
    "use_xla": "OneFlow 0.9 has no XLA; graph mode compiles without it.",
    "node_ips": "start every host with python3 -m oneflow.distributed.launch --nnodes N --node_rank I --master_addr A.",
    "ctrl_port": "set the launcher's --master_port.",
    "gpu_num_per_node": "set the launcher's --nproc_per_node.",
    "num_nodes": "set the launcher's --nnodes.",
    "metric-local": "losses and accuracies always cover all ranks; no flag shows those of one rank.",
    "logging_first_step": "the first and the last step are always logged.",
    "save_last_snapshot": "the last checkpoint is always kept.",
    "model": "--model_size chooses the model.",
    "model_type": "all models here are BERT; for ALBERT's sentence order prediction use --objective sop.",
    "skip_xla": "OneFlow 0.9 has no XLA; graph mode compiles without it.",
    **dict.fromkeys(("source_dir", "entry_point", "sm_job_name", "instance_type", "instance_count", "name"), _LAUNCHER),
    "evaluation_strategy": "--eval_every_n_iters N evaluates every N steps; 0 evaluates only at the end.",
    "save_strategy": "--model_save_every_n_iter N saves every N steps.",
    "eval_accumulation_steps": "evaluation accumulates sums, not outputs; --val_batch_size sets the batch size.",
    "dataloader_drop_last": "every record counts once; the last batch is padded with rows of weight 0.",
    "dataloader_num_workers": "one thread reads ahead; the number cannot be changed.",
    "remove_unused_columns": "only the features that the model needs are read.",
    "label_names": "--skip_nsp drops the next-sentence labels, --eval_only_mlm drops them in evaluation only.",
    "datasets_cache_dir": "records are read in place.",
    "overwrite_cache": "records are read in place.",
}


@dataclass(frozen=True)
class BatchFlags:
    """Batches."""

    train_batch_size: int | None = flag(
        None,
        "sequences in one rank's micro-batch; with --packing best_fit, the micro-batch has this many times the "
        "sequence length in tokens, filled with whole sequences",
        default_text="{default_train_rows}",
        aliases=("batch_size_per_device", "per_gpu_batch_size", "per_device_train_batch_size"),
        unit="sequences",
    )
    train_global_batch_size: int | None = flag(
        None,
        "sequences in the micro-batches of all ranks together",
        default_text="--train_batch_size times the ranks",
        unit="sequences",
    )
    val_batch_size: int | None = flag(
        None,
        "sequences in one rank's evaluation batch",
        default_text="{default_val_rows}",
        aliases=("eval_batch_size_per_device", "per_device_eval_batch_size"),
        unit="sequences",
    )
    val_global_batch_size: int | None = flag(
        None,
        "sequences in the evaluation batches of all ranks together",
        default_text="--val_batch_size times the ranks",
        unit="sequences",
    )
    grad_acc_steps: int = flag(
        1,
        "gradient accumulation: micro-batches per update",
        aliases=("gradient_accumulation_steps",),
        unit="micro-batches",
    )
    grad_acc_ramp_steps: int = flag(
        0,
        "batch-size warmup: over this many updates, the micro-batches of an update grow from 1 to --grad_acc_steps",
        unit="updates",
    )
    padding: str | None = flag(
        None,
        "pad batches to the full length of the records (max_length); pad them to the longest record of an update, "
        "whose records then have similar lengths (longest); or compute no padding: the records of a micro-batch lie "
        "one behind the other, and a token only attends to its own record (none; needs the CPU kernels)",
        default_text="none with --packing best_fit, longest for sets made with --bin_size, else max_length",
        choices=("max_length", "longest", "none"),
    )
    packing: str = flag(
        "none",
        "what a training micro-batch of one rank contains: --train_batch_size records (none); or, without padding, as "
        "many records as fit into --train_batch_size times the sequence length in tokens (best_fit)",
        choices=("none", "best_fit"),
    )

    default_train_rows: ClassVar[int] = 8
    default_val_rows: ClassVar[int] = 32

    def __post_init__(self) -> None:
        per_rank, of_all = ("train_batch_size", "val_batch_size"), ("train_global_batch_size", "val_global_batch_size")
        at_least(self, 1, *per_rank, *of_all, "grad_acc_steps")
        at_least(self, 0, "grad_acc_ramp_steps")
        at_most(self, MOST_ROWS, *per_rank, "grad_acc_steps")
        at_most(self, 64 * MOST_ROWS, *of_all)
        at_most(self, MOST_STEPS, "grad_acc_ramp_steps")
        if self.packing == "best_fit":
            if self.padding not in (None, "none"):
                raise UserError(
                    f"--packing best_fit needs --padding none, but found --padding {self.padding}: omit one of them."
                )
            object.__setattr__(self, "padding", "none")

    @property
    def without_padding(self) -> str:
        """The flag that turns padding off, for messages; empty if there is padding."""
        if self.packing == "best_fit":
            return "--packing best_fit"
        return "--padding none" if self.padding == "none" else ""

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
    """Optimizer and learning rate."""

    optim_name: str = flag(
        "adamw",
        "adamw has bias correction; bert_adam does not, like Google's optimizer; adam has no weight decay; lamb is "
        "meant for large batches",
        aliases=("optimizer",),
        choices=("adamw", "bert_adam", "adam", "lamb"),
    )
    lr: float = flag(1e-3, "peak learning rate", aliases=("learning_rate",))
    weight_decay: float = flag(
        0.01, "decoupled weight decay, not applied to biases and LayerNorm", aliases=("weight_decay_rate",)
    )
    adam_beta1: float = flag(0.9, "decay rate of the first moment")
    adam_beta2: float = flag(0.999, "decay rate of the second moment")
    adam_epsilon: float = flag(1e-6, "added to the square root of the second moment")
    clip: str = flag(
        "norm",
        "clip gradients by their global norm, clip each value, or do not clip",
        choices=("norm", "value", "none"),
    )
    max_grad_norm: float = flag(1.0, "with --clip norm: maximum global norm; 0 disables clipping")
    clip_value: float = flag(1.0, "with --clip value: maximum absolute value of each gradient element")
    skip_loss_spikes: bool = flag(
        False,
        "skip an update whose gradient norm, before clipping, is more than --spike_factor times the median of the "
        "64 norms before it",
    )
    spike_factor: float = flag(10.0, "with --skip_loss_spikes: factor above the median of recent norms")
    lr_schedule: str | None = flag(
        None,
        "learning rate schedule after warmup; onecycle is optax's linear one-cycle schedule",
        default_text="linear, or polynomial if --lr_decay_power is given",
        aliases=("lr_scheduler_type",),
        choices=("linear", "polynomial", "constant", "cosine", "onecycle"),
    )
    warmup_proportion: float = flag(
        0.1, "fraction of the steps during which the learning rate rises", aliases=("warmup_ratio",)
    )
    warmup_steps: int | None = flag(None, "number of warmup steps; overrides --warmup_proportion", unit="steps")
    lr_decay_from: str = flag(
        "warmup",
        "count the decay from the end of warmup (Hugging Face, AWS), or from the start of the run (Google, NVIDIA), so "
        "that warmup ends below --lr",
        choices=("warmup", "start"),
    )
    lr_first_step: int | None = flag(
        None,
        "index of the first update in the schedule's formula: 0 (Google, Hugging Face) or 1 (AWS, NVIDIA)",
        default_text="1 for polynomial, else 0",
    )
    lr_decay_power: float | None = flag(
        None,
        "power of the polynomial schedule; implies --lr_schedule polynomial",
        default_text="1",
        aliases=("learning_rate_decay_power",),
    )
    end_learning_rate: float = flag(0.0, "learning rate at the end of the linear, polynomial and cosine schedules")
    onecycle_pct_final: float = flag(
        0.85, "onecycle: fraction of the steps after which the learning rate is back at its first value"
    )
    onecycle_div_factor: float = flag(25.0, "onecycle: peak learning rate divided by the first learning rate")
    onecycle_final_div_factor: float = flag(1e4, "onecycle: first learning rate divided by the last")
    lr_for_batch: int | None = flag(
        None,
        "batch size that --lr refers to; for other sizes, --lr is scaled by the square root of the ratio",
        default_text="no scaling",
        unit="sequences",
    )
    freeze_embeddings: bool = flag(False, "do not train the embeddings")
    freeze_layers: int = flag(
        0, "do not train the embeddings and this many of the lowest encoder layers", unit="layers"
    )
    layer_lr_decay: float = flag(
        1.0,
        "factor between the learning rates of a layer and the layer above it; the head has --lr, the embeddings have "
        "the lowest rate",
        aliases=("layerwise_lr_decay",),
    )
    ema_decay: float = flag(
        0.0,
        "keep an exponential moving average of the weights with this decay, such as 0.999, also evaluate it "
        "(eval_ema_*), and store it in each checkpoint's training_state; 0 disables it",
    )
    swa_start: float | None = flag(
        None,
        "stochastic weight averaging: from this fraction of the updates on, such as 0.75, keep a uniform average of "
        "the weights after each update, evaluate it too (eval_swa_*), and store it in each checkpoint's training_state",
        default_text="no averaging",
    )
    stock_lamb: bool = flag(
        False, "in graph mode without the CPU kernels: accept OneFlow's LAMB, whose trust ratio differs from the paper"
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "lr", "weight_decay", "max_grad_norm", "warmup_steps", "end_learning_rate")
        at_least(self, 1, "lr_for_batch")
        at_least(self, 0, "freeze_layers")
        at_least(self, 0, "ema_decay")
        if self.ema_decay >= 1:
            raise UserError(f"--ema_decay must be below 1, not {self.ema_decay}.")
        if self.swa_start is not None and not 0 <= self.swa_start < 1:
            raise UserError(f"--swa_start must be at least 0 and below 1, not {self.swa_start}.")
        if self.swa_start is not None and self.ema_decay:
            raise UserError("--ema_decay and --swa_start both average the weights: pass only one of them.")
        above(self, 0, "layer_lr_decay")
        at_most(self, 1, "layer_lr_decay")
        above(self, 0, "adam_epsilon", "clip_value", "lr_decay_power", "onecycle_div_factor")
        above(self, 0, "onecycle_final_div_factor")
        above(self, 1, "spike_factor")
        at_most(self, MOST_STEPS, "warmup_steps")
        if self.lr_schedule not in (None, "polynomial") and self.lr_decay_power not in (None, 1):
            raise UserError(
                f"--lr_decay_power needs --lr_schedule polynomial, not {self.lr_schedule}: remove one of them."
            )
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
        """The name of the learning-rate schedule."""
        return self.lr_schedule or ("linear" if self.lr_decay_power is None else "polynomial")

    @property
    def norm_limit(self) -> float:
        """The maximum global gradient norm; 0 means no clipping."""
        return self.max_grad_norm if self.clip == "norm" else 0.0


@dataclass(frozen=True)
class RunFlags:
    """Run, checkpoints and logs."""

    output_dir: str = flag(
        "",
        "directory for checkpoints, run.json, metrics and results",
        default_text="--checkpoint_path if given, else {default_output_dir}; with --run_name NAME "
        "{default_output_dir}/NAME",
    )
    checkpoint_path: str | None = flag(
        None, "separate directory for checkpoints", default_text="--output_dir", aliases=("model_save_dir",)
    )
    log_dir: str | None = flag(
        None,
        "separate directory for TensorBoard files, in a subdirectory named after --output_dir; several runs can share "
        "it",
        default_text="--output_dir",
        aliases=("logging_dir",),
    )
    load_from: str | None = flag(
        None,
        "start from random weights (scratch), from --checkpoint_path, with new checkpoints in --output_dir "
        "(checkpoint), or from --init_checkpoint, by default Google's model of --model_size from the hub (huggingface)",
        default_text="--init_checkpoint if given, else scratch",
        choices=("scratch", "checkpoint", "huggingface"),
    )
    load_optimizer_state: bool | None = flag(
        None,
        "with --load_from checkpoint: also load the optimizer state and the step; False starts at step 0",
        default_text="{default_load_optimizer_state}",
    )
    run_name: str | None = flag(None, "name of the run in its log", default_text="generated from the main flags")
    epochs: float = flag(
        1,
        "passes over the training data",
        aliases=("e", "num_epochs", "num_epoch", "num_train_epochs"),
    )
    max_steps: int | None = flag(
        None,
        "number of updates; overrides --epochs",
        aliases=("total_steps",),
        unit="steps",
        default_text="by --epochs",
    )
    train_hours: float | None = flag(
        None,
        "train for this time, including evaluations and checkpoints, instead of a number of updates; the learning rate "
        "depends on the time; the time of all starts of a run is added up; overrides --epochs",
        unit="hours",
    )
    seed: int = flag(42, "seed of the initial weights, the data order and dropout")
    resume: bool = flag(False, "continue from the newest checkpoint; start from the beginning without one")
    overwrite_output_dir: bool = flag(False, "delete the files of an earlier run in the output directory")
    keep_last: int = flag(
        3, "number of checkpoints to keep; 0 keeps all", aliases=("save_total_limit",), unit="checkpoints"
    )
    model_save_every_n_iter: int = flag(
        10000,
        "steps between checkpoints; the last step is always saved",
        aliases=("model_save_every_n_iters", "save_steps", "checkpoint_frequency"),
        unit="steps",
    )
    loss_print_every_n_iters: int = flag(
        20,
        "steps between log lines",
        aliases=("loss_print_every_n_iter", "logging_steps", "log_frequency"),
        unit="steps",
    )
    save_at_steps: tuple[int, ...] = flag(
        (),
        "also save after these steps, and keep these checkpoints; 0 is before the first step",
        aliases=("save_at_step",),
        unit="steps",
    )
    val_print_every_n_iters: int = flag(20, "batches between progress lines of an evaluation", unit="batches")
    eval_every_n_iters: int = flag(
        0,
        "steps between evaluations; 0 evaluates only at the end",
        aliases=("eval_steps", "validation_frequency", "evaluate_frequency"),
        unit="steps",
    )
    eval_at_start: bool = flag(False, "also evaluate before the first step")
    report_to: str = flag(
        "tensorboard",
        "experiment tracker, in addition to TensorBoard files, which are always written; wandb and mlflow must be "
        "installed; they write to the output directory, and send nothing unless WANDB_MODE or MLFLOW_TRACKING_URI is "
        "set",
        choices=("tensorboard", "wandb", "mlflow", "none"),
    )
    do_train: bool = flag(True, "train")
    do_eval: bool | None = flag(None, "evaluate", default_text="if evaluation data is given")

    # Fine-tuning starts a new run from a checkpoint's weights, so its default is False.
    default_load_optimizer_state: ClassVar[bool] = True
    default_output_dir: ClassVar[str] = "output"

    def __post_init__(self) -> None:
        local(self, "output_dir", "log_dir", *(() if self.load_from else ("checkpoint_path",)))
        at_least(self, 1, "loss_print_every_n_iters", "val_print_every_n_iters", "model_save_every_n_iter", "max_steps")
        at_least(self, 0, "keep_last", "eval_every_n_iters", "seed")
        for step in self.save_at_steps:
            if not 0 <= step <= MOST_STEPS:
                raise UserError(f"--save_at_steps must be between 0 and {MOST_STEPS}, not {step}.")
        at_most(self, MOST_SEED, "seed")
        at_most(self, MOST_STEPS, "max_steps", "epochs")
        above(self, 0, "epochs", "train_hours")
        at_most(self, 10**5, "train_hours")
        if self.train_hours and self.max_steps:
            raise UserError("--max_steps and --train_hours both set the end of the run: pass only one of them.")
        if self.load_from == "checkpoint" and not self.checkpoint_path:
            raise UserError("--load_from checkpoint needs --checkpoint_path: name the checkpoint to start from.")
        if self.load_optimizer_state is not None and self.load_from != "checkpoint":
            raise UserError(
                "--load_optimizer_state only works with --load_from checkpoint; to continue a run use --resume."
            )
        if self.resume and self.overwrite_output_dir:
            raise UserError("--resume continues the run that --overwrite_output_dir deletes: remove one of them.")
        if not self.output_dir:
            # With --load_from, --checkpoint_path is the start of the run, not the directory for its checkpoints.
            saves_in = None if self.load_from else self.checkpoint_path
            name = (self.run_name or "").replace("/", "-").strip(".")
            object.__setattr__(self, "output_dir", saves_in or str(Path(self.default_output_dir, name)))

    @property
    def loads_optimizer_state(self) -> bool:
        """Whether the run loads the optimizer state and the step from the checkpoint of --load_from."""
        if self.load_from != "checkpoint":
            return False
        return self.default_load_optimizer_state if self.load_optimizer_state is None else self.load_optimizer_state

    def below(self, *parts: str) -> RunFlags:
        """The same flags with subdirectories of the run's directories."""

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
    """Devices and speed (results differ only by rounding)."""

    with_cuda: bool | None = flag(None, "train on CUDA", default_text="if CUDA is usable")
    device: str | None = flag(None, "the same choice by name", choices=("cpu", "cuda"))
    cuda_devices: tuple[int, ...] = flag(
        (), "indices of the visible CUDA devices to use, one for each rank of the host", per_host=True
    )
    use_ddp: bool = flag(False, "eager mode: average gradients over the ranks")
    use_consistent: bool = flag(False, "graph mode: global tensors over the ranks")
    tensor_parallel: int = flag(
        1,
        "graph mode on CPUs: number of ranks that share one copy of the model; they split its attention heads, "
        "feed-forward layers and vocabulary, and read the same records",
        unit="ranks",
    )
    pipeline_parallel: int = flag(
        1, "number of pipeline stages; only 1 is supported (see docs/distributed.md)", unit="stages"
    )
    zero: bool = flag(
        False, "split the optimizer state over the ranks; not supported with OneFlow 0.9 (see docs/distributed.md)"
    )
    use_fp16: bool = flag(
        False, "half-precision matrix products: fp16 on CUDA, bf16 on CPUs that support it", aliases=("fp16",)
    )
    tf32: bool = flag(
        True,
        "fp32 matrix products on CUDA: round operands to TF32 on GPUs that have it, which is faster; False keeps all "
        "bits of fp32",
    )
    nccl_fusion_threshold_mb: int = flag(16, "graph mode on CUDA: maximum size of a gradient bucket", unit="MB")
    nccl_fusion_max_ops: int = flag(
        24, "graph mode on CUDA: maximum number of gradients in one bucket", unit="gradients"
    )
    join_timeout: float = flag(
        300.0, "with several ranks: time to wait for the others at startup", unit="seconds", per_host=True
    )
    stop_timeout: float = flag(
        60.0, "with several ranks: time to save and exit after SIGTERM or Ctrl-C", unit="seconds", per_host=True
    )
    num_threads: int | None = flag(
        None, "CPU threads of this rank", default_text="the host's cores, shared by its ranks", per_host=True
    )
    cpu_kernels: bool = flag(True, "use the CPU kernels that `make setup` builds")
    activation_checkpointing: bool = flag(
        False,
        "eager mode: keep only each layer's input, and recompute the layer in the backward pass",
        aliases=("checkpoint_activations", "gradient_checkpointing"),
    )
    profile: bool = flag(False, "print the time per operation at the end", per_host=True)

    def __post_init__(self) -> None:
        if self.device is not None and self.with_cuda not in (None, self.device == "cuda"):
            raise UserError(f"--with_cuda {self.with_cuda} contradicts --device {self.device}: pass only one of them.")
        if len(set(self.cuda_devices)) < len(self.cuda_devices) or min(self.cuda_devices, default=0) < 0:
            raise UserError(
                f"--cuda_devices {','.join(map(str, self.cuda_devices))} contains a device twice or a negative index: "
                "give each device once, counted from 0."
            )
        threads(self, "num_threads")
        at_least(self, 1, "tensor_parallel", "pipeline_parallel")
        if self.pipeline_parallel > 1:
            raise UserError(
                f"--pipeline_parallel {self.pipeline_parallel} is not supported, because evaluation, checkpoints and "
                "gradient norms need every weight on every rank: use --tensor_parallel."
            )
        if self.zero:
            raise UserError(
                "--zero is not supported, because OneFlow 0.9 aborts when it splits the optimizer state on CPUs: use "
                "--tensor_parallel, which splits it with the model."
            )
        at_least(self, 0, "nccl_fusion_threshold_mb", "nccl_fusion_max_ops", "join_timeout", "stop_timeout")
        at_most(self, 1 << 20, "nccl_fusion_threshold_mb", "nccl_fusion_max_ops")
        at_most(self, 10**7, "join_timeout", "stop_timeout")

    def framework_settings(self) -> dict[str, Any]:
        """The arguments of `kernels.configure`: the settings that OneFlow reads when it is imported."""
        return {
            "threads": self.num_threads,
            "enabled": self.cpu_kernels,
            "gpus": self.cuda_devices,
            "on_cuda": self.wants_cuda,
            "tf32": self.tf32,
        }

    @property
    def wants_cuda(self) -> bool | None:
        """Whether the flags ask for CUDA; None if they leave the choice to the host."""
        return {"cpu": False, "cuda": True}.get(self.device or "", self.with_cuda)


def _per_rank(kind: str, per_rank: int | None, total: int | None, world_size: int, default: int) -> int:
    if total is None:
        return per_rank or default
    if total % world_size:
        raise UserError(
            f"--{kind}-global-batch-size {total} is not divisible by the {world_size} ranks: choose a multiple."
        )
    if total // world_size > MOST_ROWS:
        raise UserError(
            f"--{kind}-global-batch-size {total} on {world_size} ranks makes {total // world_size} for each rank: use "
            f"at most {MOST_ROWS}."
        )
    if per_rank is not None and per_rank * world_size != total:
        raise UserError(
            f"--{kind}-batch-size {per_rank} on {world_size} ranks makes {per_rank * world_size}, "
            f"not --{kind}-global-batch-size {total}: pass only one of them."
        )
    return total // world_size
