"""Learning rates, one definition for both modes: a table of values, one for each step of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
from oneflow.nn.optimizer.lr_scheduler import LRScheduler
from oneflow.optim.optimizer import Optimizer

from configs.cli import warn
from configs.training import OptimizerFlags
from utils.errors import UserError


def learning_rates(flags: OptimizerFlags, total_steps: int) -> np.ndarray:
    """float64 [total_steps]: the learning rate of each update, the first one's at index 0.

    During warmup `lr * step / warmup` (so 0 at the first update, as in google-research/bert and Hugging Face); after
    it the schedule runs over the remaining steps:
    polynomial, and linear with power 1: `(lr - end) * ((total - step) / (total - warmup)) ** power + end`;
    cosine: half a wave from lr to end; constant: lr.

    Raises:
        UserError: the warmup is longer than the run.
    """
    steps = np.arange(total_steps, dtype=np.float64)
    warmup = flags.warmup_steps
    if warmup is None:
        warmup = int(total_steps * flags.warmup_proportion)
    if warmup > total_steps:
        raise UserError(f"--warmup_steps {warmup} is longer than the run of {total_steps} steps: shorten it.")
    if warmup == total_steps and total_steps > 1:
        warn("warmup takes the whole run: the learning rate only rises.")
    left = (total_steps - steps) / max(1, total_steps - warmup)  # 1 at the end of warmup, towards 0
    low, high = flags.end_learning_rate, flags.lr
    decayed = {
        "linear": (high - low) * np.maximum(left, 0) + low,
        "polynomial": (high - low) * np.maximum(left, 0) ** flags.lr_decay_power + low,
        "cosine": (high - low) * (1 + np.cos(np.pi * (1 - left))) / 2 + low,
        "constant": np.full(total_steps, high),
    }[flags.lr_schedule]
    return np.where(steps < warmup, high * steps / max(1, warmup), decayed)


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
