"""The training loop: performs updates, logs, evaluates and saves. It knows no model, task or record format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from configs.training import RunFlags
from data.reading.loader import Batch
from training.averages import WeightAverage
from training.checkpointer import Checkpointer
from training.evaluations import Evaluations
from training.log import TrainingLog
from training.plan import UpdatePlan
from training.step import TrainStep
from training.stopping import StopSignals


@dataclass(frozen=True)
class Updates:
    """The updates to perform."""

    step: TrainStep
    batches: Iterable[Batch]  # this rank's rows of each update, starting with the plan's first
    plan: UpdatePlan
    average: WeightAverage | None = None  # the step, if it averages the weights


def train(
    updates: Updates,
    flags: RunFlags,
    log: TrainingLog,
    evaluations: Evaluations,
    checkpoints: Checkpointer,
    stop: StopSignals,
) -> int:
    """Performs the updates of a plan until it ends, evaluations stop improving, or a signal arrives.

    A closed standard output stops a run like a signal.

    Args:
        updates: the step, its batches and the plan.
        flags: whether to evaluate at the start.
        log: writes the rows of training steps.
        evaluations: the evaluations, which are performed when due.
        checkpoints: the checkpoints, which are saved when due and after the last update.
        stop: checked before each update.

    Returns:
        The total number of updates, including those before the start.

    Raises:
        UserError: a loss, a gradient norm or a weight is NaN or infinite; no such checkpoint is saved.
        Stopped: the run was stopped; its checkpoint is saved.
    """
    done, plan = updates.plan.start.step, updates.plan
    if plan.budget:
        plan.budget.start()
    feed = iter(updates.batches)
    with stop:
        if (evaluations.due(done) and evaluations.missing(done)) if done else flags.eval_at_start:
            with log.clock_stopped():
                evaluations.make(done)
        if not done and checkpoints.due(0):
            checkpoints.save(0)
        exhausted = evaluations.exhausted()
        while not (stopped := stop.requested()) and not plan.ends(done) and not exhausted:
            batch = next(feed)
            outputs = updates.step(batch)
            done += 1
            log.count(batch)
            if log.due(done) or evaluations.due(done) or checkpoints.due(done):
                checkpoints.check_finite(done)
            if log.due(done):
                log.write(done, outputs())
            with log.clock_stopped():
                if evaluations.due(done):
                    evaluations.make(done)
                    exhausted = evaluations.exhausted()
                if checkpoints.due(done):
                    checkpoints.save(done)
                    checkpoints.probe(done)
        if checkpoints.saved_step != done:
            checkpoints.check_finite(done)
            checkpoints.save(done)
        if stopped:
            raise stop.stopped(done)
    return done
