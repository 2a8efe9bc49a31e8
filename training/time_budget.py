"""Training for a given time (--train_hours): the clock of a run, and learning rates that follow it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import oneflow as flow

from data.reading.loader import Batch
from training.step import Metrics, TrainStep
from utils.errors import UserError

_SMOOTHING = 0.1  # the weight of one update in the moving estimate of the time per update


@dataclass(frozen=True)
class Clock:
    """The measured times of a run with --train_hours, in seconds. Checkpoints store them.

    Attributes:
        seconds: training time: all starts of the run together, without the time between them. It includes updates,
            evaluations and checkpoints.
        update: the time of an update; 0 if not measured.
        evaluation: the time of an evaluation; 0 if not measured.
        save: the time of a checkpoint; 0 if not measured.
    """

    seconds: float = 0.0
    update: float = 0.0
    evaluation: float = 0.0
    save: float = 0.0


class TimeBudget:
    """Decides, before each update, its learning rate and whether it is the last one.

    The time that the last checkpoint and the last evaluation will take is set aside. The learning rate of an update is
    that of the schedule at the time when the update is expected to end. The last update is the one whose end is
    expected to be nearest to the end of the time, and it has the schedule's last learning rate.

    Args:
        hours: the run's time.
        clock: the measurements before this start.
        schedule: the learning rate as a function of the completed fraction of the run.
        shared: returns the first rank's value of a number on all ranks.
        forward_share: the time of an evaluation relative to an update; 0 if the run does not evaluate.
        now: the current time in seconds.
    """

    def __init__(
        self,
        hours: float,
        clock: Clock,
        schedule: Callable[[float], float],
        shared: Callable[[float], float],
        forward_share: float,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.budget, self.schedule = hours * 3600, schedule
        self.clock, self.finished = clock, clock.seconds >= self.budget
        self.learning_rate, self.began = schedule(0.0), clock.seconds
        self._shared, self._now, self._forward_share = shared, now, forward_share
        self._timed_updates = 0
        self._zero: float | None = None  # the time at which the clock stood at 0

    @property
    def left(self) -> float:
        """The remaining seconds."""
        return max(0.0, self.budget - self.clock.seconds)

    @property
    def state(self) -> Clock:
        """What a checkpoint stores; a finished run has used all of its time."""
        return replace(self.clock, seconds=max(self.clock.seconds, self.budget)) if self.finished else self.clock

    def start(self) -> None:
        """Starts the clock, or continues it."""
        self._zero = self._now() - self.clock.seconds

    def begin_update(self) -> None:
        """Sets the learning rate of the next update, and whether it is the last one."""
        self._read()
        self.began, update = self.clock.seconds, self.clock.update
        end = self._deadline() - update / 2
        self.finished = self.began + update >= end
        self.learning_rate = self.schedule(1.0 if self.finished else (self.began + update) / end)

    def end_update(self) -> None:
        """Measures the update.

        Raises:
            UserError: an evaluation takes more than the whole time.
        """
        self._read()
        taken, before = self.clock.seconds - self.began, self.clock.update
        self._timed_updates += 1
        if before:  # an update that compiles, or is disturbed, counts as twice the others
            self.clock = replace(self.clock, update=before + _SMOOTHING * (min(taken, 2 * before) - before))
        elif self._timed_updates > 1:  # the first one compiles
            self.clock = replace(self.clock, update=taken)
        check_evaluation(self.budget, self._evaluation)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Measures the time of the block: an "evaluation", or the "save" of a checkpoint."""
        self._read()
        before = self.clock.seconds
        yield
        self._read()
        self.clock = replace(self.clock, **{name: self.clock.seconds - before})

    def has_time_to_evaluate(self) -> bool:
        """Whether an evaluation now leaves time for an update before the last evaluation."""
        return not self.finished and self.clock.seconds + self._evaluation + self.clock.update < self._deadline()

    @property
    def _evaluation(self) -> float:
        """The time of an evaluation, estimated until one has been measured."""
        return self.clock.evaluation or self.clock.update * self._forward_share

    def _deadline(self) -> float:
        """When the last update must have ended."""
        return self.budget - self._evaluation - self.clock.save

    def _read(self) -> None:
        """Sets the clock, to the same time on all ranks."""
        if self._zero is not None:
            self.clock = replace(self.clock, seconds=self._shared(self._now() - self._zero))


def check_evaluation(budget: float, evaluation: float) -> None:
    """Raises UserError if an evaluation of that many seconds leaves no time to train."""
    if evaluation >= budget:
        raise UserError(
            f"--train_hours {budget / 3600:g} is {budget:.0f} seconds, but one evaluation takes about "
            f"{evaluation:.0f}: set more time, or evaluate on fewer records."
        )


class TimedStep:
    """A training step that reports the start and end of updates to a time budget."""

    def __init__(self, step: TrainStep, budget: TimeBudget) -> None:
        self._step, self._budget = step, budget
        self.first_bad_update, self.state, self.load_state = step.first_bad_update, step.state, step.load_state

    def __call__(self, batch: Batch) -> Metrics:
        self._budget.begin_update()
        metrics = self._step(batch)
        flow._oneflow_internal.eager.Sync()  # otherwise the clock would only measure the time to submit the work
        self._budget.end_update()
        return metrics


def stored_clock(content: object) -> Clock:
    """The clock that a checkpoint stores as JSON; raises ValueError if it is not one."""
    names = set(asdict(Clock()))
    if not isinstance(content, dict) or set(content) != names:
        raise ValueError(f"clock must contain {', '.join(sorted(names))}")
    if not all(type(value) in (int, float) and 0 <= value < np.inf for value in content.values()):
        raise ValueError("clock must contain numbers of 0 or more")
    return Clock(**content)
