"""Collects the rows of training steps: losses, norms, learning rate, and throughput since the previous row."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from configs.training import RunFlags
from data.reading.loader import Batch
from data.reading.packing import PLACES
from training.evaluator import Evaluator
from training.journal import Journal
from training.optimizer import weight_norm
from training.plan import UpdatePlan
from training.task import Task


class TrainingLog:
    """Writes a row for every update to be logged, and measures the time between rows.

    Args:
        journal: writes the rows.
        flags: the intervals between rows.
        plan: provides the epoch, the records and the learning rate of each update, and the number of updates.
        task: names the metrics.
        evaluator: the evaluator of the trained model; it also computes the metrics that training does not.
        peak: floating-point operations per second of the job's matrix products.
    """

    def __init__(
        self, journal: Journal, flags: RunFlags, plan: UpdatePlan, task: Task, evaluator: Evaluator, peak: float
    ) -> None:
        self.journal, self.flags, self.plan, self.task = journal, flags, plan, task
        self.evaluator, self.peak = evaluator, peak
        self.model, self.shape = evaluator.model, evaluator.world.shape
        self._batch: Batch = {}
        self._begin_interval(plan.start.step)

    def count(self, batch: Batch) -> None:
        """Counts the work of one update on this rank's rows."""
        self._work += self._work_of(batch)
        self._batch = batch
        self.journal.advance()

    def due(self, done: int) -> bool:
        """Whether the last of `done` updates is to be logged: the first, the last, and those at the log interval."""
        regular = done % self.flags.loss_print_every_n_iters == 0
        return regular or done == 1 or self.plan.ends(done) or self._measures(done)

    def write(self, done: int, outputs: Mapping[str, float]) -> None:
        """Writes the row of the last of `done` updates, given its outputs."""
        update = done - 1
        records: float = self.plan.records_before(done) - self.plan.records_before(self._logged)
        if self.task.training and self.task.training.packed_rows:
            records *= len(self.task.training) / self.task.training.epoch_rows
        rates = np.array([records, *self._work]) / (time.perf_counter() - self._clock)
        names = ("throughput", "tokens_per_second", "model_flops_per_second")
        row = {
            **self.task.row({**self._measured(done), **outputs, "weight_norm": weight_norm(self.model)}),
            "lr": self.plan.learning_rate(update),
            **dict(zip(names, rates.tolist(), strict=True)),
            "model_flops_share": float(rates[2]) / self.peak,
        }
        line, budget = self.task.log_line, self.plan.budget
        if budget:
            row |= {"train_seconds": budget.began, "hours_left": budget.left / 3600}
            line = (*line, "hours_left")
        self.journal.training_row(update, self.plan.epoch(update), row, line)
        self._begin_interval(done)

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Excludes the time inside the block from the throughput."""
        stopped = time.perf_counter()
        yield
        self._clock += time.perf_counter() - stopped

    def _measures(self, done: int) -> bool:
        every = self.task.train_figures_every
        return bool(every) and done % every == 0

    def _measured(self, done: int) -> dict[str, float]:
        """Metrics of the first micro-batch that only evaluation computes, such as masked-LM accuracy."""
        if not self._measures(done):
            return {}
        parts = self.plan.sizes.micro_batches(done - 1)
        batch = {name: array[: len(array) // parts] for name, array in self._batch.items()}
        return self.evaluator.means_of([batch], self.task.terms)

    def _begin_interval(self, done: int) -> None:
        self._clock, self._logged, self._work = time.perf_counter(), done, np.zeros(2)

    def _work_of(self, batch: Batch) -> np.ndarray:
        """float64 [2], over all ranks: tokens without padding, and floating-point operations of the model."""
        *rows, length = batch["input_ids"].shape  # [B, S] or, with several texts in a row, [B, T, S]
        computed = batch["input_mask"].sum(axis=-1) if PLACES in batch else np.full(math.prod(rows), length)
        flops = 3 * sum(self.model.config.forward_flops(tokens, self.task.predictions) for tokens in computed.tolist())
        return self.shape.data_parallel_size * np.array([batch["input_mask"].sum(), flops], np.float64)
