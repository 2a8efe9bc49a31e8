"""The loop: steps, logs, evaluates, saves. It knows neither the model nor where batches come from."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from configs.training import RunFlags
from data.loader import Batch
from training.journal import Journal
from training.step import TrainStep
from utils import ranks
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
    save: Callable[[int], None],
    inspect: Callable[[int], None] = lambda done: None,
    saves_too: Callable[[int], bool] = lambda done: False,
    stop_everywhere: Callable[[bool], bool] = lambda stop: stop,
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
        evaluate: gives `eval_…` metrics.
        save: writes a checkpoint after so many updates.
        inspect: looks at a checkpoint that was written on the way.
        saves_too: whether one is to be written after so many updates, beside the flags' own.
        stop_everywhere: makes a wish to stop known to all ranks, so that they stop at the same step.

    Returns:
        The number of updates made in all.

    Raises:
        UserError: a loss is not a finite number.
    """
    clock, logged_step, work = time.perf_counter(), first_step, np.zeros(2)
    saved_step = first_step if first_step else -1
    feed = iter(batches)
    done = first_step
    if evaluate and flags.eval_at_start and not first_step:
        journal.evaluation_row(0, evaluate())
    with _signals() as stop:
        while not (stopped := stop_everywhere(bool(stop))) and done < progress.total_steps:
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
            if evaluate and flags.eval_every_n_iters and done % flags.eval_every_n_iters == 0:
                journal.evaluation_row(done, evaluate())
            if done % flags.model_save_every_n_iter == 0 or saves_too(done):
                save(done)
                saved_step = done
                inspect(done)
            clock += time.perf_counter() - paused  # throughput counts training alone

        if saved_step != done:
            save(done)
        if stopped:
            raise Stopped(done, stop[0] if stop else signal.SIGTERM)  # the signal may have come to another rank
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


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT while inside.

    Alone, the second one ends the process as if nothing were done about it. Ranks of a job get several for one Ctrl-C,
    and end in bounded time anyway (utils/ranks.py).
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if ranks.size() == 1:
            for each, handler in previous.items():
                signal.signal(each, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        if not received or ranks.size() == 1:
            for number, handler in previous.items():
                signal.signal(number, handler)
