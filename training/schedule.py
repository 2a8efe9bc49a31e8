"""Learning rates and batch sizes over a run, one definition for both modes: a table, one value for each update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from oneflow.nn.optimizer.lr_scheduler import LRScheduler
from oneflow.optim.optimizer import Optimizer

from configs.training import BatchFlags, OptimizerFlags
from utils.errors import UserError
from utils.messages import warn


def learning_rates(flags: OptimizerFlags, total_steps: int, batch_size: int | None = None) -> np.ndarray:
    """float64 [total_steps]: the learning rate of each update, the first one's at index 0.

    Update number n (from 0, or from 1: `--lr_first_step`) of T, with W of them in warmup, has `lr * n / W` during
    warmup. After it, counted from n0 = W, or from n0 = 0 with `--lr_decay_from start`:
    linear and polynomial: `(lr - end) * ((T - n) / (T - n0)) ** power + end`. Google's linear schedule
    (google-research/bert optimization.py) counts from 0 and decays from the start; Hugging Face's decays from the end
    of warmup; AWS's polynomial counts from 1 and decays from the end of warmup; NVIDIA's PolyWarmUp counts from 1 and
    decays from the start with end 0.
    cosine: half a wave from lr to end; constant: lr.
    onecycle (Smith & Topin 2018; optax.linear_onecycle_schedule): straight lines from `lr / div` at 0 to lr at W, back
    to `lr / div` at `int(pct_final * T)`, and to `lr / div / final_div` at T.

    Args:
        flags: names the schedule.
        total_steps: updates of the run.
        batch_size: sequences of one update, for `--lr_for_batch`.

    Raises:
        UserError: the warmup is longer than the run, or than onecycle's share of it.
    """
    first = (flags.schedule == "polynomial") if flags.lr_first_step is None else flags.lr_first_step
    n = np.arange(total_steps, dtype=np.float64) + first
    warmup: float | None = flags.warmup_steps
    if warmup is None:
        warmup = total_steps * flags.warmup_proportion
        if not (flags.schedule == "polynomial" and flags.lr_decay_from == "start"):  # NVIDIA alone does not round
            warmup = int(warmup)
    if warmup > total_steps:
        raise UserError(f"--warmup_steps {warmup} is longer than the run of {total_steps} steps: shorten it.")
    if warmup == total_steps and total_steps > 1:
        warn("warmup takes the whole run: the learning rate only rises.")
    low, high = flags.end_learning_rate, flags.lr
    if flags.lr_for_batch is not None and batch_size is not None:
        high *= math.sqrt(batch_size / flags.lr_for_batch)
    if flags.schedule == "onecycle":
        middle = int(flags.onecycle_pct_final * total_steps)
        if warmup >= middle > 0:
            raise UserError(f"warmup takes {warmup} steps, past --onecycle_pct_final at step {middle}: shorten it.")
        start = high / flags.onecycle_div_factor
        return np.interp(
            n, [0, warmup, middle, total_steps], [start, high, start, start / flags.onecycle_final_div_factor]
        )
    origin = 0 if flags.lr_decay_from == "start" else warmup
    left = np.clip((total_steps - n) / max(1, total_steps - origin), 0, 1)  # from 1 to 0
    decayed = {
        "linear": (high - low) * left + low,
        "polynomial": (high - low) * left ** (flags.lr_decay_power or 1) + low,
        "cosine": (high - low) * (1 + np.cos(np.pi * (1 - left))) / 2 + low,
        "constant": np.full(total_steps, high),
    }[flags.schedule]
    rises = n <= warmup if origin else n < warmup  # where decay begins at warmup's end, both meet at --lr
    return np.where(rises, high * n / (warmup or 1), decayed)


@dataclass(frozen=True)
class BatchSchedule:
    """How many records each update takes: so many a micro-batch, whose number grows linearly to its peak."""

    micro_rows: int  # records of one micro-batch over all ranks
    peak: int  # micro-batches of an update in the end
    ramp: int = 0  # updates until the peak is reached; the first has one micro-batch

    @classmethod
    def of(cls, flags: BatchFlags, world_size: int) -> BatchSchedule:
        """The schedule that the flags describe."""
        ramp = flags.grad_acc_ramp_steps if flags.grad_acc_steps > 1 else 0
        return cls(flags.train_rows(world_size) * world_size, flags.grad_acc_steps, ramp)

    def micro_batches(self, step: int) -> int:
        """Micro-batches of update `step`, the first of which is 0."""
        return self.peak if step >= self.ramp else 1 + (self.peak - 1) * step // self.ramp

    def records_before(self, step: int) -> int:
        """Records taken by all updates before `step`."""
        ramp = sum(self.micro_batches(each) for each in range(min(step, self.ramp)))
        return self.micro_rows * (ramp + self.peak * max(0, step - self.ramp))

    def steps_for(self, records: int, first_step: int = 0) -> int:
        """Updates, beginning with `first_step`, until at least so many records are taken."""
        step = first_step
        while records > 0 and step < self.ramp:
            records -= self.micro_rows * self.micro_batches(step)
            step += 1
        return step - first_step + max(0, math.ceil(records / (self.micro_rows * self.peak)))

    def sizes(self, first_step: int) -> Iterator[int]:
        """Records of each update from `first_step` on, without end."""
        while True:
            yield self.micro_rows * self.micro_batches(first_step)
            first_step += 1


class TableScheduler(LRScheduler):
    """Sets the optimizer's learning rate from a table, in eager mode by `step()`, in graph mode by the compiled job."""

    def __init__(self, optimizer: Optimizer, values: np.ndarray, first_step: int = 0) -> None:
        self.values = [float(value) for value in values]
        super().__init__(optimizer, last_step=-1)
        self.last_step = first_step - 1
        self.step()

    def get_lr(self, base_lr: float, step: int) -> float:
        """The learning rate of update `step`; after the last one, the last one's."""
        return self.values[min(step, len(self.values) - 1)]

    def _generate_conf_for_graph(self, lr_conf: Any) -> None:
        # OneFlow's compiled jobs know a fixed set of formulas; a piecewise constant one with a piece a step is any.
        table = lr_conf.piecewise_constant_conf
        table.SetInParent()
        table.boundaries.extend(range(len(self.values) - 1))
        table.values.extend(self.values)
