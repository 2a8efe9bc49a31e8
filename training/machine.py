"""Checks and settings of the machine: CPU kernels, memory, precision and profiling."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import oneflow as flow

import kernels
from configs.memory import available_bytes, require_memory, training_bytes
from configs.training import DeviceFlags
from kernels.check import gemm_speed
from kernels.cuda import tf32_is_enabled
from training.config import TrainingConfig
from training.distributed import World
from training.journal import Journal
from training.task import Task
from utils.errors import UserError
from utils.messages import warn


def check_same_kernels(world: World) -> None:
    """Raises UserError if ranks would compute differently, in which case jobs would hang or dropout masks differ."""
    on_cpu = world.device == "cpu"
    if not world.all_equal(on_cpu):
        raise UserError("some ranks use CUDA and others the CPU: set the same --device on every host.")
    if on_cpu and not world.all_equal(kernels.is_loaded()):
        raise UserError(
            f"the CPU kernels work on some hosts only; the first rank has {kernels.load().reason}: run `python -m "
            "kernels` on each host to see why, or set --cpu_kernels False on all of them."
        )


def check_memory(config: TrainingConfig, task: Task, world: World) -> None:
    """Raises UserError if the ranks of this host need more memory than it has, before anything is allocated."""
    frozen = config.optimizer.freeze_embeddings or config.optimizer.freeze_layers
    if world.device != "cpu" or not config.run.do_train or frozen:  # with frozen layers, the estimate is too high
        return
    packed = task.training if task.training and task.training.packs and not task.training.packed_rows else None
    needed = training_bytes(
        task.bert,
        config.batch.train_rows(world.shape.data_parallel_size),
        task.seq_length if packed is None or packed.lengths is None else int(packed.lengths.mean()),
        task.predictions,
        checkpointing=config.device.activation_checkpointing,
    )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # The ranks of a replica divide most of the memory. The estimate is a lower bound, so it divides all of it.
    require_memory(needed * max(1, local // world.shape.ranks_per_replica), available_bytes())


def use_half_precision(world: World, flags: DeviceFlags) -> bool:
    """Makes the CPU kernels multiply in bf16 if --use_fp16 is given and the CPU can; returns whether they do."""
    if world.device != "cpu" or not flags.use_fp16:
        return False
    if kernels.set_bf16(True):
        return True
    warn("--use_fp16 has no effect: this CPU, or the stock kernels, only support fp32 products.")
    return False


def product_speed(world: World, use_fp16: bool) -> float:
    """Matrix product speed of all ranks in floating-point operations per second, measured on all at the same time."""
    on_cpu = world.device == "cpu"
    rows, dtype = (512, flow.float32) if on_cpu else (8192, flow.float16 if use_fp16 else flow.float32)
    world.barrier()
    speed = gemm_speed(rows, repeats=4, device=world.device, dtype=dtype)
    return float(world.sum_over_batch(np.array([speed]))[0]) * world.shape.ranks_per_replica


def describe_machine(world: World, flags: DeviceFlags, bf16: bool) -> str:
    """One log line about kernels, precision and settings."""
    settings = ", ".join(f"{name}={value}" for name, value in kernels.configure().items())
    if world.device != "cpu":
        products = "fp16" if flags.use_fp16 else "fp32"
        return f"OneFlow's CUDA kernels; {products} products; TF32 {'on' if tf32_is_enabled() else 'off'}"
    products = "bf16 products with fp32 sums" if bf16 else "fp32 products"
    return f"{kernels.load().reason}; {products}; {settings}"


@contextmanager
def profiled(flags: DeviceFlags, journal: Journal) -> Iterator[None]:
    """Measures the time of each operation if --profile is given, and prints it at the end."""
    if not flags.profile:
        yield
        return
    with kernels.profile() as report:
        yield
    journal.say(report.table())
