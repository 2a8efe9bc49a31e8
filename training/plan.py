"""The plan of a run: the number of updates, and the records and learning rate of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from configs.training import RunFlags
from training.checkpoint import TrainingState
from training.config import TrainingConfig
from training.schedule import BatchSchedule, highest_rate, learning_rates
from training.time_budget import TimeBudget


@dataclass(frozen=True)
class UpdatePlan:
    """The updates of a run, from its start to its end."""

    start: TrainingState  # before the first update
    sizes: BatchSchedule
    total_steps: int  # including those before the start
    records_per_epoch: int
    last_record: int | None  # the end of the sequence of records; None if --max_steps or --train_hours ends the run
    rates: np.ndarray  # float64 [total_steps or 1]: the learning rate of each update
    budget: TimeBudget | None = None  # decides instead of `total_steps` and `rates`, which are 0 and the highest rate

    @classmethod
    def of(
        cls, config: TrainingConfig, start: TrainingState, records_per_epoch: int, data_parallel_size: int
    ) -> UpdatePlan:
        """Creates the plan from the flags; a resumed run keeps its record groups.

        Raises:
            UserError: the learning-rate schedule does not fit the length of the run.
        """
        sizes = BatchSchedule.of(config.batch, data_parallel_size)
        steps = total_steps(config, start, records_per_epoch, data_parallel_size)
        if config.run.train_hours:
            rates = np.array([highest_rate(config.optimizer, sizes.rows)])
        else:
            rates = learning_rates(config.optimizer, max(steps, 1), sizes.rows)
        start = replace(start, group=start.group or sizes.rows)
        return cls(start, sizes, steps, records_per_epoch, _last_record(config.run, records_per_epoch), rates)

    def records_before(self, step: int) -> int:
        """The number of records that all updates before `step` take, including padding rows."""
        return self.start.records_taken + self.sizes.records_before(step) - self.sizes.records_before(self.start.step)

    def epoch(self, step: int) -> int:
        """The epoch in which update `step` begins, counted from 0."""
        return self.records_before(step) // self.records_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """The number of updates per epoch, ignoring batch-size warmup."""
        return -(-self.records_per_epoch // self.sizes.rows)

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`; with a time budget, that of the last update."""
        return self.budget.learning_rate if self.budget else float(self.rates[step])

    def ends(self, done: int) -> bool:
        """Whether the run ends after `done` updates."""
        return self.budget.finished if self.budget else done >= self.total_steps

    def state_after(self, step: int) -> TrainingState:
        """The training state after `step` updates, for a checkpoint."""
        taken = self.records_before(step)
        records_taken = taken if self.last_record is None else min(taken, self.last_record)
        clock = self.budget.state if self.budget else None
        return replace(self.start, step=step, records_taken=records_taken, clock=clock)


def total_steps(config: TrainingConfig, start: TrainingState, records_per_epoch: int, data_parallel_size: int) -> int:
    """The total number of updates of a run, including those before the start, from --max_steps or --epochs.

    They are not known with --train_hours: 0.
    """
    last_record = _last_record(config.run, records_per_epoch)
    if last_record is None:
        return config.run.max_steps or 0
    sizes = BatchSchedule.of(config.batch, data_parallel_size)
    return start.step + sizes.steps_for(last_record - start.records_taken, start.step)


def _last_record(flags: RunFlags, records_per_epoch: int) -> int | None:
    return None if flags.max_steps or flags.train_hours else round(records_per_epoch * flags.epochs)
