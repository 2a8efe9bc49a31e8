"""The first lines of a run's log."""

from __future__ import annotations

import oneflow as flow

from training.config import TrainingConfig
from training.evaluator import Evaluator
from training.machine import describe_machine
from training.plan import UpdatePlan
from training.start import Start
from training.task import Task


def describe_run(
    config: TrainingConfig, task: Task, start: Start, plan: UpdatePlan, evaluator: Evaluator, bf16: bool
) -> str:
    """Describes a run: model, records, machine, initial weights and steps."""
    assert task.training is not None
    model, world = evaluator.model, evaluator.world
    parameters = sum(parameter.numel() for _, parameter in model.own_parameters())
    origin = f"resuming {start.checkpoint}" if start.checkpoint else f"starting from {start.path or 'random weights'}"
    widths = [task.seq_length] if task.training.sorting_lengths is None else task.training.widths.tolist()
    lengths = " or ".join(str(min(width, task.seq_length)) for width in widths)
    if task.training.packs:
        lengths = f"up to {task.seq_length}"
    held_out = sum(len(records) for records in task.evaluation)
    records, rows = f"{len(task.training):,} records of {lengths} tokens", task.training.packed_rows
    if rows:
        records += f" in {len(rows):,} packed rows of {rows.tokens:,} tokens, which are {rows.fill:.1%} full"
    micro_rows = plan.sizes.micro_rows // world.shape.data_parallel_size
    return "\n".join(
        [
            f"run {config.run.run_name or default_name(config, task)}",
            f"{task.model_class.__name__}: {task.bert.num_hidden_layers} layers, hidden size "
            f"{task.bert.hidden_size}, "
            f"{parameters / 1e6:.1f} million parameters",
            *_teacher_line(config, task),
            f"{evaluator.mode} mode, {world.shape.size} process(es) on {world.device.split(':')[0]}, "
            f"OneFlow {flow.__version__}",
            describe_machine(world, config.device, bf16),
            f"{records}; one update takes {micro_rows} rows x {world.shape.data_parallel_size} ranks x "
            f"{plan.sizes.peak} micro-batches",
            *([f"{held_out:,} records to evaluate on"] if held_out and task.evaluates else []),
            f"{origin} at step {plan.start.step}{_end(plan)}",
        ]
    )


def _teacher_line(config: TrainingConfig, task: Task) -> list[str]:
    if task.teacher is None:
        return []
    size, layers = task.teacher.model.config, ", ".join(map(str, task.teacher.lesson.layers))
    return [
        f"teacher {config.distillation.teacher}: {size.num_hidden_layers} layers, hidden size {size.hidden_size}; its "
        f"layers {layers} are mapped to the model's"
    ]


def _end(plan: UpdatePlan) -> str:
    if plan.budget:
        return f", with {plan.budget.left / 3600:.3f} of {plan.budget.budget / 3600:g} hours left"
    return f" of {plan.total_steps}"


def default_name(config: TrainingConfig, task: Task) -> str:
    """The default name of a run, generated from its main settings."""
    bert, optimizer = task.bert, config.optimizer
    return (
        f"{'variant' if bert.is_variant else 'bert'}-{bert.num_hidden_layers}x{bert.hidden_size}-"
        f"{optimizer.optim_name}-lr{optimizer.lr:g}-s{task.seq_length}-seed{config.run.seed}"
    )
