"""The loop: steps, logs, evaluates, saves. It knows neither the model nor where batches come from."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from configs.training import RunFlags
from data.reading.loader import Batch
from launch import ranks
from training.journal import Journal
from training.step import TrainStep
from utils.errors import UserError


@dataclass(frozen=True)
class Progress:
    """What is counted while a run goes on."""

    total_steps: int
    records_before: Callable[[int], int]  # records taken before an update, over all ranks
    records_per_epoch: int
    work: Callable[[Batch], np.ndarray]  # float64 [2]: tokens (no padding) and the model's operations, over all ranks


def train(
    step: TrainStep,
    batches: Iterable[Batch],
    *,
    first_step: int,
    progress: Progress,
    flags: RunFlags,
    journal: Journal,
    learning_rate: Callable[[int], float],
    weight_norm: Callable[[], float],
    evaluate: Callable[[], dict[str, float]] | None,
    evaluated: Callable[[int], bool],
    save: Callable[[int], None],
    inspect: Callable[[int], None],
    saves_too: Callable[[int], bool],
    stop: StopSignals,
) -> int:
    """Makes the updates from `first_step` to the last, or until SIGTERM or Ctrl-C.

    Args:
        step: makes one update of one batch.
        batches: this rank's share of each update's batch, beginning with `first_step`'s.
        first_step: the number of updates made before.
        progress: sizes for the log.
        flags: when to log, evaluate and save.
        journal: where rows go.
        learning_rate: of each update.
        weight_norm: of the model as it is.
        evaluate: gives `eval_…` metrics, or raises `Interrupted` where `stop` is wanted.
        evaluated: whether the metrics after so many updates are there already.
        save: writes a checkpoint after so many updates.
        inspect: looks at a checkpoint that was written on the way.
        saves_too: whether one is to be written after so many updates, beside the flags' own.
        stop: looked at before each update.

    Returns:
        The number of updates made in all.

    Raises:
        UserError: a loss is not a finite number.
        Stopped: by a signal; the checkpoint is written.
    """

    def judge(done: int) -> None:
        if evaluate:
            with suppress(Interrupted):  # the checkpoint comes first, and --resume evaluates
                journal.evaluation_row(done, evaluate())

    def evaluates(done: int) -> bool:
        return bool(flags.eval_every_n_iters) and done % flags.eval_every_n_iters == 0

    clock, logged_step, work = time.perf_counter(), first_step, np.zeros(2)
    saved_step = first_step if first_step else -1
    feed = iter(batches)
    done = first_step
    with stop:
        if (evaluates(done) and not evaluated(done)) if done else flags.eval_at_start:
            judge(done)
        while not (stopped := stop.wanted()) and done < progress.total_steps:
            batch = next(feed)
            metrics = step(batch)
            work += progress.work(batch)
            current, done = done, done + 1
            journal.advance()

            if done % flags.loss_print_every_n_iters == 0 or (flags.logging_first_step and done == 1):
                values = metrics()
                if not math.isfinite(values["total_loss"]):
                    raise UserError(
                        f"total_loss is {values['total_loss']} at step {current}: the last checkpoint is from step "
                        f"{max(saved_step, 0)}; go on from it with a lower --lr or a longer warmup."
                    )
                records = progress.records_before(done) - progress.records_before(logged_step)
                rates = np.array([records, *work]) / (time.perf_counter() - clock)
                epoch = progress.records_before(current) // progress.records_per_epoch
                journal.training_row(
                    current, epoch, _row(values | {"weight_norm": weight_norm()}, learning_rate(current), rates)
                )
                clock, logged_step, work = time.perf_counter(), done, np.zeros(2)

            paused = time.perf_counter()
            if evaluates(done):
                judge(done)
            if done % flags.model_save_every_n_iter == 0 or saves_too(done):
                save(done)
                saved_step = done
                inspect(done)
            clock += time.perf_counter() - paused  # throughput counts training alone

        if saved_step != done:
            save(done)
        if stopped:
            raise stop.stopped(done)
    return done


class Stopped(Exception):
    """A signal ended the run after `step` updates, and a checkpoint is written."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after {step} steps; --resume goes on.")


def _row(values: dict[str, float], lr: float, rates: np.ndarray) -> dict[str, float | None]:
    values = dict(values)
    if "nsp_accuracy" in values:
        values["pred_acc"] = values.pop("nsp_accuracy")
    names = ("throughput", "tokens_per_second", "model_flops_per_second")
    return {**values, "lr": lr, **dict(zip(names, rates.tolist(), strict=True))}


class Interrupted(Exception):
    """An evaluation was given up, because the run is to stop."""


class StopSignals:
    """Collects SIGTERM and SIGINT while inside.

    Alone, the second one ends the process as if nothing were done about it. Ranks of a job get several for one Ctrl-C,
    and end in bounded time anyway (launch/ranks.py).

    Args:
        everywhere: makes a wish known to all ranks, so that they stop at the same place.
    """

    def __init__(self, everywhere: Callable[[bool], bool]) -> None:
        self.received: list[int] = []
        self._everywhere, self._previous = everywhere, dict[signal.Signals, Any]()

    def wanted(self) -> bool:
        """Whether any rank has received one since the beginning; to be asked by all ranks, inside."""
        return self._everywhere(bool(self.received))

    def stopped(self, step: int) -> Stopped:
        """What ends the run after so many updates."""
        return Stopped(step, self.received[0] if self.received else signal.SIGTERM)  # or it came to another rank

    @property
    def watching(self) -> bool:
        """Whether this is inside."""
        return bool(self._previous)

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)

    def __exit__(self, *error: object) -> None:
        if not self.received or ranks.size() == 1:
            self._restore()
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if ranks.size() == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
