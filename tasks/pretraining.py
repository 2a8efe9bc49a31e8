"""Pretraining on record sets, in one or several phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.model import BertConfig
from configs.pretraining import PretrainingConfig, PretrainingDataFlags
from data.reading.sampling import with_draws
from data.reading.span_boundaries import with_boundaries
from launch import ranks
from launch.job_shape import JobShape
from tasks.masked_lm import MaskedLM, MaskedLMWithNextSentence, MaskedLMWithSentenceOrder
from tasks.pretraining_records import PretrainingRecords
from tasks.replaced_tokens import ReplacedTokens
from training.checkpoint import TrainingState
from training.distributed import World
from training.plan import total_steps
from training.probes import Probes
from training.run_directory import RunDirectory, locked
from training.schedule import BatchSchedule, learning_rates
from training.start import Start
from training.step import Mode
from training.task import in_rows, padded
from training.trainer import train_and_evaluate
from utils.errors import UserError
from utils.messages import warn


@dataclass(frozen=True)
class Objective:
    """A value of --objective."""

    task: type[MaskedLM]
    records: tuple[str, ...]  # the objectives of the record sets that it can use


OBJECTIVES = {
    "none": Objective(MaskedLM, ("none",)),
    "nsp": Objective(MaskedLMWithNextSentence, ("nsp",)),
    "sop": Objective(MaskedLMWithSentenceOrder, ("sop",)),
    "rtd": Objective(ReplacedTokens, ("none", "nsp", "sop")),
}


def pretrain(config: PretrainingConfig, mode: Mode) -> None:
    """Trains and evaluates as the flags say, phase after phase; all files go to the output directory."""
    phases, first = _with_positions(config.in_phases()), ranks.rank() == 0
    with locked(config.run, *(phase.run for phase in phases)) if first else nullcontext():
        for number, phase in enumerate(phases, 1):
            if len(phases) > 1 and first:
                print(f"phase {number} of {len(phases)}: {phase.run.output_dir}", flush=True)
            later = dict(enumerate(phases[number:], number + 1))
            # Otherwise a restart would resume what an earlier run left in the directories of later phases.
            cleared = [each.run for each in later.values()] + ([config.run] if number == 1 else [])
            train_and_evaluate(phase, mode, partial(_open_phase, phase, later), cleared)


def _open_phase(
    config: PretrainingConfig, later: Mapping[int, PretrainingConfig], start: Start, world: World
) -> MaskedLM:
    """Creates the task of a phase, after checking that the `later` phases can follow it."""
    task = open_task(config, start.config, start.vocab_file)
    if not (config.run.do_train or task.evaluates):
        raise UserError(
            "--do_train False leaves nothing to do without evaluation data: pass --val_ofrecord_path or --val_fraction."
        )
    if config.run.do_eval and not task.evaluates and world.shape.is_first:
        warn("--do_eval has no effect without evaluation data: pass --val_ofrecord_path or --val_fraction.")
    task = replace(
        task,
        training=padded(task.training, config.batch) if task.training else None,
        evaluation=tuple(padded(records, config.batch) for records in task.evaluation),
    )
    steps = _total_steps(config, task, world) if later else 0
    for number, phase in later.items():
        with _named_phase(number):
            steps = _check_phase(phase, task, steps, world)
    return task


def open_task(config: PretrainingConfig, bert: BertConfig | None, vocab_file: Path | None) -> MaskedLM:
    """Creates the task from the flags and the records.

    Args:
        config: the flags.
        bert, vocab_file: the configuration and vocabulary of the initial weights, if there are any.

    Raises:
        UserError: flags, records, vocabulary and model do not fit together.
    """
    records = PretrainingRecords.open(config.data, config.run.do_train)
    chosen = task_class(config.data, records)
    bert = config.model.bert_config(bert, vocab_size=records.vocab_size)
    vocab_file = records.find_vocab(bert, vocab_file)
    run_records = _records_of_run(config, len(records.training))
    training, held_out = records.for_model(bert, vocab_file, config.run.seed, run_records)
    if chosen is ReplacedTokens:
        training = with_draws(training, config.run.seed)
        held_out = held_out and with_draws(held_out, config.run.seed)
    if config.data.span_boundary_objective:
        training = with_boundaries(training)
        held_out = held_out and with_boundaries(held_out)
    return chosen(
        bert=bert,
        vocabulary=records.vocabulary(vocab_file),
        seq_length=records.seq_length,
        training=training if config.run.do_train else None,
        evaluation=(held_out,) if held_out else (),
        evaluates=held_out is not None and (config.run.do_eval is not False or not config.run.do_train),
        config=config,
        train_figures_every=0 if config.data.skip_mlm else config.data.train_accuracy_every_n_iters,
        predictions=records.max_predictions_per_seq,
        probes=Probes.of(config.probes, RunDirectory.of(config.run).output, bert, vocab_file),
    )


def task_class(flags: PretrainingDataFlags, records: PretrainingRecords) -> type[MaskedLM]:
    """The task class for --objective, by default the objective that the records were made for."""
    source, found = records.source.name, records.objective
    if found not in OBJECTIVES:
        raise UserError(
            f"{source} was made for the objective {found!r}, but this version only supports {', '.join(OBJECTIVES)}: "
            "prepare the data again."
        )
    chosen = OBJECTIVES[flags.objective or found]
    if found in chosen.records or (flags.objective == "none" and flags.skip_nsp):
        return chosen.task
    if flags.objective == "none":
        raise UserError(f"--objective none, but {source} has labels for {found}: ignore them with --skip_nsp.")
    raise UserError(
        f"--objective {flags.objective} disagrees with {source}, which was made for {found}: prepare the data again."
    )


def _with_positions(phases: list[PretrainingConfig]) -> list[PretrainingConfig]:
    """The phases with enough positions for the longest sequences of all phases, if no flag sets the number.

    Initial weights already have a fixed number of positions.
    """
    first, run = phases[0].model, phases[0].run
    has_weights = run.load_from != "scratch" and (run.load_from or first.init_checkpoint)
    if len(phases) == 1 or first.max_position_embeddings or has_weights:
        return phases
    size = BertConfig.max_position_embeddings
    for number, phase in enumerate(phases, 1):
        with _named_phase(number):
            size = max(size, PretrainingRecords.open(phase.data).seq_length)
    return [replace(phase, model=replace(phase.model, max_position_embeddings=size)) for phase in phases]


@contextmanager
def _named_phase(number: int) -> Iterator[None]:
    """Adds the phase to the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"phase {number}: {error}") from None


def _check_phase(config: PretrainingConfig, first: MaskedLM, steps_before: int, world: World) -> int:
    """Checks that a phase can follow the previous one; returns the number of updates after which it ends."""
    task = open_task(config, first.bert, first.vocabulary.path if first.vocabulary else None)
    steps = _total_steps(config, task, world)
    learning_rates(config.optimizer, max(1, steps))
    timed = config.run.train_hours is not None
    if config.run.load_optimizer_state and not timed and (config.run.max_steps or 0) <= steps_before:
        raise UserError(f"with the optimizer state it continues at step {steps_before}: set --max_steps above that.")
    if world.shape.is_first:
        RunDirectory.of(config.run).check_unused(config.run)
    return steps


def _records_of_run(config: PretrainingConfig, records_per_epoch: int) -> int:
    """The records that a run from step 0 to its end reads."""
    sizes = BatchSchedule.of(config.batch, JobShape.current(config.device.tensor_parallel).data_parallel_size)
    steps = config.run.max_steps
    return sizes.records_before(steps) if steps else max(1, round(records_per_epoch * config.run.epochs))


def _total_steps(config: PretrainingConfig, task: MaskedLM, world: World) -> int:
    """The number of updates of a training run that starts at step 0."""
    training = in_rows(task, config, world.shape.data_parallel_size).training
    assert training is not None
    state = TrainingState(step=0, records_taken=0, seed=config.run.seed)
    return total_steps(config, state, training.epoch_rows, world.shape.data_parallel_size)
