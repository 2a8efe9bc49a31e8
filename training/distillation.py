"""Reads the model of --teacher, and checks that the model to train can learn from it."""

from __future__ import annotations

from dataclasses import replace

from configs.distillation import DistillationFlags
from configs.pooling import Pooling
from conversion import Checkpoint, read_checkpoint
from conversion.tokenizer_files import read_vocabulary
from modeling.distillation import Lesson, even_layers
from modeling.embedding import BertForEmbedding
from modeling.pretrained import ENCODER
from training.config import TrainingConfig
from training.task import Task, Teacher
from utils.errors import UserError


def with_teacher(task: Task, config: TrainingConfig) -> Task:
    """The task with the teacher of --teacher, if the flag is given and the run trains.

    Raises:
        UserError: the teacher cannot be read, or does not fit the task, the model or other flags.
    """
    flags = config.distillation
    if flags.teacher is None or not config.run.do_train:
        return task
    if not task.soft_targets:
        raise UserError("--teacher is not available with --objective rtd: use --objective none.")
    if flags.distill_attention_weight and config.device.activation_checkpointing:
        raise UserError(
            "--distill_attention_weight cannot be combined with --activation_checkpointing, which discards the inputs "
            "of attention: omit one of them."
        )
    weights = read_checkpoint(flags.teacher)
    _check_inputs(weights, flags, task)
    lesson = Lesson(
        targets=task.soft_targets,
        layers=_layers(flags, task.bert.num_hidden_layers, weights.config.num_hidden_layers),
        weight=flags.distill_weight,
        temperature=flags.distill_temperature,
        hidden_weight=flags.distill_hidden_weight,
        attention_weight=flags.distill_attention_weight,
    )
    return replace(task, teacher=_build(weights, flags, task, lesson))


def _layers(flags: DistillationFlags, student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layer for each of the model's, which have these numbers of layers; raises UserError."""
    layers = flags.teacher_layers or even_layers(student, teacher)
    if len(layers) != student:
        raise UserError(
            f"--teacher_layers has {len(layers)} layers, but the model has {student}: name one for each of these."
        )
    if max(layers) >= teacher:
        raise UserError(
            f"--teacher_layers {max(layers)} is not a layer of the teacher, which has 0 to {teacher - 1}: name one "
            "of these."
        )
    return layers


def _check_inputs(weights: Checkpoint, flags: DistillationFlags, task: Task) -> None:
    """Raises UserError if the teacher cannot read the model's inputs."""
    teacher, model = weights.config, task.bert
    own = read_vocabulary(weights.vocab_file, None) if weights.vocab_file else None
    if own and task.vocabulary and own.ids != task.vocabulary.ids:
        raise UserError(
            f"--teacher {flags.teacher} has a different vocabulary from the model's ({own.path} differs from "
            f"{task.vocabulary.path}): use a teacher with the same vocabulary."
        )
    if teacher.vocab_size != model.vocab_size:
        raise UserError(
            f"--teacher {flags.teacher} has a vocabulary of {teacher.vocab_size} entries, but the model has "
            f"{model.vocab_size}: use a teacher with the same vocabulary."
        )
    if teacher.type_vocab_size < model.type_vocab_size:
        raise UserError(
            f"--teacher {flags.teacher} has {teacher.type_vocab_size} segment types, but the model has "
            f"{model.type_vocab_size}: use a teacher with at least as many."
        )
    if teacher.max_position_embeddings < task.seq_length:
        raise UserError(
            f"--teacher {flags.teacher} has {teacher.max_position_embeddings} positions, but sequences have up to "
            f"{task.seq_length} tokens: use shorter sequences, or another teacher."
        )


def _build(weights: Checkpoint, flags: DistillationFlags, task: Task, lesson: Lesson) -> Teacher:
    """The teacher with its weights.

    Raises:
        UserError: it has no head for the task, or one for other labels.
    """
    if flags.distill_weight:
        _check_outputs(weights, flags, task)
    config = replace(weights.config, num_labels=task.bert.num_labels, problem_type=task.bert.problem_type)
    model = task.build(config, 0)
    if isinstance(model, BertForEmbedding):
        model.pooling = Pooling.read(weights.directory) or model.pooling
    needed = tuple(prefix for target in lesson.targets for prefix in target.parameters) if lesson.weight else ()
    heads = [
        name
        for name, _ in model.named_parameters()
        if not name.removeprefix(ENCODER).startswith(("embeddings.", "encoder."))
    ]
    model.unused = tuple(name for name in heads if not name.startswith(needed))
    arrays = {name: array for name, array in weights.state.items() if name not in model.unused}
    model.load_arrays(arrays, source=str(weights.path), optional=())
    return Teacher(model, lesson)


def _check_outputs(weights: Checkpoint, flags: DistillationFlags, task: Task) -> None:
    """Raises UserError if the outputs of the teacher do not correspond to those of the model."""
    teacher, model = weights.config, task.bert
    kinds = {target.kind for target in task.soft_targets}
    if "vectors" in kinds and teacher.hidden_size != model.hidden_size:
        raise UserError(
            f"--teacher {flags.teacher} has embeddings of size {teacher.hidden_size}, but the model's have "
            f"{model.hidden_size}: learn only from its layers (--distill_weight 0 --distill_hidden_weight 1)."
        )
    if not any(prefix.startswith("classifier.") for target in task.soft_targets for prefix in target.parameters):
        return
    names = (teacher.label_names, model.label_names)
    if teacher.num_labels != model.num_labels or (all(names) and names[0] != names[1]):
        raise UserError(
            f"--teacher {flags.teacher} predicts {', '.join(teacher.shown_labels)}, but the model predicts "
            f"{', '.join(model.shown_labels)}: use a teacher that was fine-tuned for the same labels."
        )
