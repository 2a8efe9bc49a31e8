"""Decides when a training run evaluates, and records the metrics."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass

from training.averages import WeightAverage
from training.evaluator import Evaluator
from training.journal import Journal
from training.stopping import Interrupted
from training.task import Task
from training.time_budget import TimeBudget


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a training run: which are due and which are done."""

    task: Task
    evaluator: Evaluator
    every: int  # steps between evaluations; 0: only at the end
    journal: Journal
    average: WeightAverage | None = None  # averaged weights to evaluate too
    budget: TimeBudget | None = None

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after this many steps, and there is time for it before the last one."""
        regular = bool(self.every) and step % self.every == 0
        return regular and (self.budget is None or self.budget.has_time_to_evaluate())

    def missing(self, step: int) -> bool:
        """Whether metrics.jsonl has no evaluation after this many steps."""
        return not self.evaluator.world.any(self.journal.evaluated(step, self.task.judged_by))

    def exhausted(self) -> bool:
        """Whether none of the last `task.patience` evaluations improved on earlier ones."""
        if not self.task.patience:
            return False
        scores = self.journal.scores(self.task.judged_by)
        since_best = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return self.evaluator.world.any(since_best >= self.task.patience)

    def make(self, step: int) -> None:
        """Evaluates after this many steps and reports the metrics; if a signal interrupts it, --resume repeats it."""
        with suppress(Interrupted):
            self._make(step)

    def make_last(self, step: int) -> None:
        """Evaluates after the last step; raises Stopped if a signal interrupts it."""
        stop = self.evaluator.stop
        with stop:
            try:
                self._make(step)
            except Interrupted:
                raise stop.stopped(step) from None

    def _make(self, step: int) -> None:
        if not self.task.evaluates:
            return
        with self.budget.measuring("evaluation") if self.budget else nullcontext():
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        averaged: dict[str, float] = {}
        if self.average:  # first, so that the files of results are those of the weights themselves
            with self.average.in_use():
                averaged = self.average.figures(self.task.evaluate(self.evaluator, self.journal.say))
        self.journal.evaluation_row(step, self.task.evaluate(self.evaluator, self.journal.say) | averaged)
