"""The order of a run, from flags to checkpoints, for every task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

from configs.cli import to_flat_dict
from configs.training import RunFlags
from data.reading.loader import Batch, RankSlice, training_batches
from launch.job_shape import JobShape
from training.checkpoint import load_training_state
from training.checkpointer import Checkpointer
from training.config import TrainingConfig
from training.description import describe_run
from training.distributed import World, join
from training.evaluations import Evaluations
from training.evaluator import Evaluator
from training.gradient_cache import comparing_rows
from training.journal import Journal
from training.layers import LayerRates, freeze
from training.log import TrainingLog
from training.loop import Updates, train
from training.machine import check_memory, check_same_kernels, product_speed, profiled, use_half_precision
from training.optimizer import build_optimizer, own_moments
from training.plan import UpdatePlan
from training.run_directory import RunDirectory, locked
from training.start import Start, build_model, check_same_records, check_steps_left, find_start
from training.step import Mode, StepOptions, build_train_step, check_mode, place_model
from training.stopping import OUTPUT_CLOSED, Stopped, StopSignals
from training.task import Task
from training.terms import select
from utils.checkpoints import newest_checkpoint
from utils.messages import warn

OpenTask = Callable[[Start, World], Task]


def train_and_evaluate(
    config: TrainingConfig, mode: Mode, open_task: OpenTask, cleared: Sequence[RunFlags] = ()
) -> dict[str, float]:
    """One run: everything that its flags ask for, in this order.

    Args:
        config: the command's flags.
        mode: "eager" or "graph".
        open_task: makes the task for where the run starts; it reads the records' metadata and checks the flags.
        cleared: other runs whose directories are cleared with this one's, where their flags ask for it.

    Returns:
        The figures that the task's answers have.

    Raises:
        UserError: flags, files and machines do not fit together. No run is cleared or changed before all checks pass.
    """
    world = join(config.device)
    check_mode(mode, config, world)
    check_same_kernels(world)
    bf16 = use_half_precision(world, config.device)
    directory = RunDirectory.of(config.run)
    with locked(config.run) if world.shape.is_first else nullcontext():
        if config.run.do_train and world.shape.is_first:
            directory.check_unused(config.run)
            for flags in cleared:
                RunDirectory.of(flags).to_clear(flags)
        world.barrier()  # the first rank writes only after all ranks have looked at what is there
        start = find_start(config, directory, world)
        task = open_task(start, world)
        check_same_records(world, task.training, task.evaluation)
        check_memory(config, task, world)
        reinit = config.model.reinit_layers
        model = build_model(start, task.build, task.bert, config.run, world, task.unused_parameters, reinit)
        stop = StopSignals(world.any)
        evaluator = Evaluator.of(mode, place_model(mode, model, world), world, config.batch, config.run, stop)
        if config.run.do_train:
            updates = _plan_updates(config, task, start, evaluator)
            if world.shape.is_first:
                for flags in (*cleared, config.run):
                    RunDirectory.of(flags).clear(flags)
                directory.claim(config.run, to_flat_dict(config))
            with Journal(
                directory.output,
                events=directory.events,
                first_step=updates.plan.start.step,
                total_steps=updates.plan.total_steps,
                active=world.shape.is_first,
                on_closed_output=stop.output_closed,
            ) as journal:
                journal.say(describe_run(config, task, start, updates.plan, evaluator, bf16))
                _train(config, task, start, updates, evaluator, journal)
        elif task.evaluates:
            _evaluate_only(task, start, directory, evaluator)
        return task.answer(evaluator)


def _plan_updates(config: TrainingConfig, task: Task, start: Start, evaluator: Evaluator) -> Updates:
    """The updates of the run with their step, which continues from the optimizer's state to start from."""
    assert task.training is not None
    world, model = evaluator.world, evaluator.model
    state, moments = start.training_state(config.run.seed)
    plan = UpdatePlan.of(config, state, len(task.training), world.shape.data_parallel_size)
    check_steps_left(start, state.step, plan.total_steps)
    freeze(model, config.optimizer)
    optimizer = build_optimizer(model, config.optimizer)
    options = StepOptions.of(config, world)
    step = build_train_step(evaluator.mode, model, optimizer, plan.rates, options)
    if config.optimizer.layer_lr_decay < 1:
        step = LayerRates(step, model, config.optimizer.layer_lr_decay)
    step = comparing_rows(step, evaluator.mode, model, options)
    if start.checkpoint:
        step.load_state(own_moments(moments, model, str(start.checkpoint)), state.step)
    return Updates(step, _training_rows(task, plan, world.shape), plan)


def _training_rows(task: Task, plan: UpdatePlan, shape: JobShape) -> Iterator[Batch]:
    """This rank's rows of each update from the plan's first on."""
    assert task.training is not None
    batches = training_batches(
        task.training,
        rows=plan.sizes.sizes(plan.start.step),
        group=plan.start.group or 1,
        micro_rows=plan.sizes.micro_rows // shape.data_parallel_size,
        seed=plan.start.seed,
        start=plan.start.records_taken,
        end=plan.last_record,
        rank_slice=RankSlice(shape.data_parallel_rank, shape.data_parallel_size),
    )
    return (select(batch, task.features) for batch in batches)


def _train(
    config: TrainingConfig, task: Task, start: Start, updates: Updates, evaluator: Evaluator, journal: Journal
) -> None:
    """Makes the updates that are left, evaluates the result, and lets the probes look at it."""
    flags, world, plan = config.run, evaluator.world, updates.plan
    directory = RunDirectory.of(flags)
    epoch = plan.steps_per_epoch if task.evaluates_each_epoch else 0
    peak = product_speed(world, config.device.use_fp16)
    journal.say(f"matrix products: {peak / 1e9:,.0f} GFLOP/s over all ranks, measured; the peak of model_flops_share")
    log = TrainingLog(journal, flags, plan, task, evaluator, peak)
    evaluations = Evaluations(task, evaluator, flags.eval_every_n_iters or epoch, journal)
    checkpoints = Checkpointer(
        directory.checkpoints, evaluator.model, updates.step, plan, task.vocabulary, task.probes, flags, journal, world
    )
    done = plan.start.step
    try:
        if done < plan.total_steps:
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


def _evaluate_only(task: Task, start: Start, directory: RunDirectory, evaluator: Evaluator) -> None:
    """Evaluates the weights to start from; the row in metrics.jsonl has their step."""
    step = load_training_state(start.checkpoint)[0].step if start.checkpoint else 0
    first = evaluator.world.shape.is_first
    with Journal(directory.output, events=directory.events, first_step=None, total_steps=0, active=first) as journal:
        journal.evaluation_row(step, task.evaluate(evaluator, journal.say))
