"""The learning rate and the batch size of each update, as tables for both modes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from oneflow.nn.optimizer.lr_scheduler import LRScheduler
from oneflow.optim.optimizer import Optimizer

from configs.training import BatchFlags, OptimizerFlags
from utils.errors import UserError
from utils.messages import warn


def learning_rates(flags: OptimizerFlags, total_steps: int, batch_size: int | None = None) -> np.ndarray:
    """float64 [total_steps]: the learning rate of each update; see `rate_schedule`."""
    first = (flags.schedule == "polynomial") if flags.lr_first_step is None else flags.lr_first_step
    return rate_schedule(flags, total_steps, batch_size)(np.arange(total_steps, dtype=np.float64) + first)


def highest_rate(flags: OptimizerFlags, batch_size: int | None = None) -> float:
    """The learning rate at the end of warmup: --lr, scaled as --lr_for_batch says."""
    if flags.lr_for_batch is None or batch_size is None:
        return flags.lr
    return flags.lr * math.sqrt(batch_size / flags.lr_for_batch)


def rate_schedule(
    flags: OptimizerFlags, total_steps: int, batch_size: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """The learning rates of updates n, an array of numbers from 0 to T, in a run of T updates.

    Of T updates, W are warmup. Update n has `lr * n / W` during warmup; `--lr_first_step` counts n from 0 or from 1.
    After warmup the decay counts from n0 = W, or from n0 = 0 with `--lr_decay_from start`:

    - linear and polynomial: `(lr - end) * ((T - n) / (T - n0)) ** power + end`. Google's linear schedule
      (google-research/bert optimization.py) counts from 0 and decays from the start. Hugging Face's decays from the
      end of warmup. AWS's polynomial counts from 1 and decays from the end of warmup. NVIDIA's PolyWarmUp counts from
      1 and decays from the start, with end 0.
    - cosine: half a cosine wave from lr to end.
    - constant: lr.
    - onecycle (Smith & Topin 2018; optax.linear_onecycle_schedule): straight lines from `lr / div` at 0 to lr at W,
      back to `lr / div` at `int(pct_final * T)`, and to `lr / div / final_div` at T.

    Args:
        flags: the schedule and its settings.
        total_steps: the run's number of updates.
        batch_size: sequences per update, for `--lr_for_batch`.

    Raises:
        UserError: the warmup is longer than the run, or than onecycle's share of it.
    """
    warmup: float | None = flags.warmup_steps
    if warmup is None:
        warmup = total_steps * flags.warmup_proportion
        if not (
            flags.schedule == "polynomial" and flags.lr_decay_from == "start"
        ):  # only NVIDIA's schedule does not round
            warmup = int(warmup)
    if warmup > total_steps:
        raise UserError(f"--warmup_steps {warmup} is longer than the run of {total_steps} steps: lower it.")
    if warmup == total_steps and total_steps > 1:
        warn("the warmup takes the whole run, so the learning rate never decays.")
    low, high = flags.end_learning_rate, highest_rate(flags, batch_size)
    if flags.schedule == "onecycle":
        middle = int(flags.onecycle_pct_final * total_steps)
        if warmup >= middle > 0:
            raise UserError(
                f"the warmup of {warmup} steps ends after step {middle}, at which --onecycle_pct_final returns to the "
                "first learning rate: shorten the warmup."
            )
        start = high / flags.onecycle_div_factor
        steps, rates = [0, warmup, middle, total_steps], [start, high, start, start / flags.onecycle_final_div_factor]
        return lambda n: np.interp(n, steps, rates)
    origin = 0 if flags.lr_decay_from == "start" else warmup
    end, divisor = warmup, warmup or 1

    def rates_of(n: np.ndarray) -> np.ndarray:
        left = np.clip((total_steps - n) / max(1, total_steps - origin), 0, 1)  # from 1 to 0
        decayed = {
            "linear": (high - low) * left + low,
            "polynomial": (high - low) * left ** (flags.lr_decay_power or 1) + low,
            "cosine": (high - low) * (1 + np.cos(np.pi * (1 - left))) / 2 + low,
            "constant": np.full_like(left, high),
        }[flags.schedule]
        rises = n <= end if origin else n < end  # if the decay begins after warmup, both formulas give lr at n = W
        return np.where(rises, high * n / divisor, decayed)

    return rates_of


@dataclass(frozen=True)
class BatchSchedule:
    """The number of records in each update: micro-batches of a fixed size, whose number may grow linearly to a peak.

    With --packing best_fit, a packed row counts as one record.
    """

    micro_rows: int  # records of one micro-batch over all data-parallel ranks
    peak: int  # micro-batches of an update after the ramp
    ramp: int = 0  # updates until the peak is reached; the first has one micro-batch

    @classmethod
    def of(cls, flags: BatchFlags, data_parallel_size: int) -> BatchSchedule:
        """Creates the schedule from the flags."""
        ramp = flags.grad_acc_ramp_steps if flags.grad_acc_steps > 1 else 0
        rows = 1 if flags.packing == "best_fit" else flags.train_rows(data_parallel_size)
        return cls(rows * data_parallel_size, flags.grad_acc_steps, ramp)

    @property
    def rows(self) -> int:
        """Records of an update after the ramp."""
        return self.micro_rows * self.peak

    def micro_batches(self, step: int) -> int:
        """The number of micro-batches in update `step`, counted from 0."""
        return self.peak if step >= self.ramp else 1 + (self.peak - 1) * step // self.ramp

    def records_before(self, step: int) -> int:
        """The number of records that all updates before `step` take."""
        ramp = sum(self.micro_batches(each) for each in range(min(step, self.ramp)))
        return self.micro_rows * (ramp + self.peak * max(0, step - self.ramp))

    def steps_for(self, records: int, first_step: int = 0) -> int:
        """The number of updates, starting with `first_step`, that take at least this many records."""
        step = first_step
        while records > 0 and step < self.ramp:
            records -= self.micro_rows * self.micro_batches(step)
            step += 1
        return step - first_step + max(0, math.ceil(records / (self.micro_rows * self.peak)))

    def sizes(self, first_step: int) -> Iterator[int]:
        """Yields the number of records of each update from `first_step` on, endlessly."""
        while True:
            yield self.micro_rows * self.micro_batches(first_step)
            first_step += 1


class TableScheduler(LRScheduler):
    """Sets the learning rate from a table: by `step()` in eager mode, in the compiled job in graph mode."""

    def __init__(self, optimizer: Optimizer, values: np.ndarray, first_step: int = 0) -> None:
        self.values = [float(value) for value in values]
        super().__init__(optimizer, last_step=-1)
        self.last_step = first_step - 1
        self.step()

    def get_lr(self, base_lr: float, step: int) -> float:
        """The learning rate of update `step`; beyond the table, its last value."""
        return self.values[min(step, len(self.values) - 1)]

    def _generate_conf_for_graph(self, lr_conf: Any) -> None:
        # Compiled jobs only support OneFlow's formulas; a piecewise constant with one piece per step is any table.
        table = lr_conf.piecewise_constant_conf
        table.SetInParent()
        table.boundaries.extend(range(len(self.values) - 1))
        table.values.extend(self.values)
