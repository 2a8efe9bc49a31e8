"""Performs a whole run, from flags to checkpoints, for every task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from configs.cli import to_flat_dict
from configs.training import RunFlags
from data.reading.loader import Batch, RankSlice, training_batches
from launch.job_shape import JobShape
from training import tensor_parallel
from training.averages import WeightAverage
from training.checkpoint import load_training_state
from training.checkpointer import Checkpointer
from training.config import TrainingConfig
from training.description import describe_run
from training.distillation import with_teacher
from training.distributed import World, join
from training.evaluations import Evaluations
from training.evaluator import Evaluator
from training.gradient_cache import comparing_rows
from training.journal import METRICS_FILE, Journal, read_rows
from training.layers import ScaledUpdates, freeze
from training.log import TrainingLog
from training.loop import Updates, train
from training.machine import check_memory, check_same_kernels, product_speed, profiled, use_half_precision
from training.optimizer import build_optimizer, own_moments
from training.plan import UpdatePlan
from training.run_directory import RunDirectory, locked
from training.schedule import rate_schedule
from training.start import Start, build_model, check_same_records, check_steps_left, find_start, in_same_rows
from training.step import Mode, StepOptions, build_train_step, check_mode, place_model
from training.stopping import OUTPUT_CLOSED, Stopped, StopSignals
from training.task import Task, in_rows
from training.terms import select
from training.time_budget import Clock, TimeBudget, TimedStep
from training.tracker import Tracker, tracker_of
from utils.checkpoints import newest_checkpoint
from utils.errors import UserError
from utils.messages import warn

_PARTS = 1_000_000  # into which the time of a run is divided for the learning rate's schedule

OpenTask = Callable[[Start, World], Task]


def train_and_evaluate(
    config: TrainingConfig, mode: Mode, open_task: OpenTask, cleared: Sequence[RunFlags] = ()
) -> dict[str, float]:
    """Performs one run as its flags describe, in this order.

    Args:
        config: the command's flags.
        mode: "eager" or "graph".
        open_task: creates the task, given the start of the run; it reads the records' metadata and checks the flags.
        cleared: other runs whose directories are cleared together with this one's, if their flags say so.

    Returns:
        The metrics that the task returns with its predictions.

    Raises:
        UserError: flags, files and machines do not fit together. No run is cleared or changed before all checks pass.
    """
    world = join(config.device)
    check_mode(mode, config, world)
    tensor_parallel.check_flags(mode, config, world)
    check_same_kernels(world)
    bf16 = use_half_precision(world, config.device)
    directory, settings = RunDirectory.of(config.run), to_flat_dict(config)
    tracker = tracker_of(config.run.report_to, directory.output, settings) if world.shape.is_first else None
    with locked(config.run) if world.shape.is_first else nullcontext():
        if config.run.do_train and world.shape.is_first:
            directory.check_unused(config.run)
            for flags in cleared:
                RunDirectory.of(flags).to_clear(flags)
        world.barrier()  # the first rank writes only after all ranks have checked the directory
        start = find_start(config, directory, world)
        task = in_rows(open_task(start, world), config, world.shape.data_parallel_size)
        check_same_records(world, task.training, task.evaluation)
        tensor_parallel.check_model(task.model_class, task.bert, world)
        check_memory(config, task, world)
        task = with_teacher(task, config)
        reinit = config.model.reinit_layers
        model = build_model(start, task.build_student, task.bert, config.run, world, task.unused_parameters, reinit)
        stop = StopSignals(world.any)
        evaluator = Evaluator.of(mode, place_model(mode, model, world), world, config, stop)
        if config.run.do_train:
            updates = _plan_updates(config, task, start, evaluator)
            if world.shape.is_first:
                for flags in (*cleared, config.run):
                    RunDirectory.of(flags).clear(flags)
                directory.claim(config.run, settings)
            with Journal(
                directory.output,
                events=directory.events,
                first_step=updates.plan.start.step,
                total_steps=updates.plan.total_steps or None,
                active=world.shape.is_first,
                tracker=tracker,
                on_closed_output=stop.output_closed,
            ) as journal:
                journal.say(describe_run(config, task, start, updates.plan, evaluator, bf16))
                _train(config, task, start, updates, evaluator, journal)
        elif task.evaluates:
            _evaluate_only(task, start, directory, evaluator, tracker)
        return task.answer(evaluator)


def _plan_updates(config: TrainingConfig, task: Task, start: Start, evaluator: Evaluator) -> Updates:
    """Prepares the updates of the run and their step, with the optimizer state to continue from."""
    assert task.training is not None
    world, model = evaluator.world, evaluator.model
    state, moments = start.training_state(config.run.seed)
    state = in_same_rows(state, start, task.training.packed_rows)
    plan = UpdatePlan.of(config, state, task.training.epoch_rows, world.shape.data_parallel_size)
    if config.run.train_hours:
        plan = replace(plan, budget=_time_budget(config, task, start, plan, world))
    else:
        check_steps_left(start, state.step, plan.total_steps)
    freeze(model, config.optimizer)
    optimizer = build_optimizer(model, config.optimizer)
    options = StepOptions.of(config, world)
    step = build_train_step(evaluator.mode, model, optimizer, plan.rates, options)
    budget, decay, highest = plan.budget, config.optimizer.layer_lr_decay, float(plan.rates[0])
    if budget:
        step = ScaledUpdates(step, model, decay, lambda: budget.learning_rate / (highest or 1))
    elif decay < 1:
        step = ScaledUpdates(step, model, decay)
    step = comparing_rows(step, evaluator.mode, model, options)
    average: WeightAverage | None = None
    if config.optimizer.ema_decay:
        average = WeightAverage.exponential(step, model, config.optimizer.ema_decay)
    elif config.optimizer.swa_start is not None:
        average = WeightAverage.uniform(step, model, int(config.optimizer.swa_start * plan.total_steps) + 1)
    step = average or step
    step = TimedStep(step, budget) if budget else step
    if start.checkpoint and state.step:  # before the first update there are no moments
        step.load_state(own_moments(moments, model, str(start.checkpoint)), state.step)
        if average:
            average.load_averages(moments, str(start.checkpoint))
    return Updates(step, _training_rows(task, plan, world.shape), plan, average)


def _time_budget(config: TrainingConfig, task: Task, start: Start, plan: UpdatePlan, world: World) -> TimeBudget:
    """The time of a run with --train_hours, of which a resumed run has used some.

    Raises:
        UserError: the schedule cannot follow the time, or one evaluation takes longer.
    """
    flags, hours = config.optimizer, config.run.train_hours
    assert hours is not None
    if flags.warmup_steps is not None:
        raise UserError(
            "--warmup_steps counts updates, but with --train_hours their number is unknown: use --warmup_proportion."
        )
    if flags.swa_start is not None:
        raise UserError(
            "--swa_start is a fraction of the updates, but with --train_hours their number is unknown: use --ema_decay."
        )
    clock = Clock()
    if start.resumes:
        rows = read_rows(RunDirectory.of(config.run).output / METRICS_FILE, missing_ok=True)
        recorded = max((row.get("train_seconds", 0.0) for row in rows), default=0.0)
        stored = plan.start.clock or Clock()
        clock = replace(stored, seconds=world.of_the_first(max(stored.seconds, recorded)))
    rates = rate_schedule(flags, _PARTS, plan.sizes.rows)
    held_out = sum(len(records) for records in task.evaluation) if task.evaluates else 0
    forward = held_out / (3 * plan.sizes.rows) * (2 if flags.ema_decay else 1)  # an update costs three forward passes

    def schedule(share: float) -> float:
        return float(rates(np.array([share * _PARTS]))[0])

    return TimeBudget(hours, clock, schedule, world.of_the_first, forward)


def _training_rows(task: Task, plan: UpdatePlan, shape: JobShape) -> Iterator[Batch]:
    """Yields this rank's rows of each update, starting with the plan's first."""
    assert task.training is not None
    batches = training_batches(
        task.training,
        rows=plan.sizes.sizes(plan.start.step),
        micro_rows=plan.sizes.micro_rows,
        group=plan.start.group or 1,
        seed=plan.start.seed,
        start=plan.start.records_taken,
        end=plan.last_record,
        rank_slice=RankSlice(shape.data_parallel_rank, shape.data_parallel_size),
    )
    return (select(batch, task.features) for batch in batches)


def _train(
    config: TrainingConfig, task: Task, start: Start, updates: Updates, evaluator: Evaluator, journal: Journal
) -> None:
    """Performs the remaining updates, evaluates the result, and runs the probes."""
    flags, world, plan = config.run, evaluator.world, updates.plan
    directory = RunDirectory.of(flags)
    epoch = plan.steps_per_epoch if task.evaluates_each_epoch else 0
    peak = product_speed(world, config.device.use_fp16)
    journal.say(f"matrix products: {peak / 1e9:,.0f} GFLOP/s over all ranks (measured; the basis of model_flops_share)")
    log = TrainingLog(journal, flags, plan, task, evaluator, peak)
    every = flags.eval_every_n_iters or epoch
    evaluations = Evaluations(task, evaluator, every, journal, updates.average, plan.budget)
    checkpoints = Checkpointer(
        directory.checkpoints, evaluator.model, updates.step, plan, task.vocabulary, task.probes, flags, journal, world
    )
    done = plan.start.step
    try:
        if not plan.ends(done):
            if done and start.resumes:  # the probes may have been interrupted
                checkpoints.probe(done)
            with profiled(config.device, journal):
                done = train(updates, flags, log, evaluations, checkpoints, evaluator.stop)
        finished_before = task.answers_change and done == plan.start.step
        if task.evaluates and (finished_before or evaluations.missing(done)):
            evaluations.make_last(done)
    except Stopped as stopped:
        if stopped.signal_number == OUTPUT_CLOSED:
            warn(str(stopped))
        journal.say(str(stopped))
        sys.exit(128 + stopped.signal_number)
    checkpoints.probe(done, last=True)
    journal.say(f"done after {done} steps; the model is in {newest_checkpoint(directory.checkpoints) or start.path}")


def _evaluate_only(
    task: Task, start: Start, directory: RunDirectory, evaluator: Evaluator, tracker: Tracker | None
) -> None:
    """Evaluates the initial weights; the row in metrics.jsonl has their step."""
    step = load_training_state(start.checkpoint)[0].step if start.checkpoint else 0
    with Journal(
        directory.output,
        events=directory.events,
        first_step=None,
        total_steps=0,
        active=evaluator.world.shape.is_first,
        tracker=tracker,
    ) as journal:
        journal.evaluation_row(step, task.evaluate(evaluator, journal.say))
