"""One training run: its directories, where it starts from, and the way from a model and records to checkpoints.

What commands differ in (records, model, evaluation) they bring; everything else is here once.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import oneflow as flow

from configs.cli import to_flat_dict, warn
from configs.model import BertConfig, ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from data.loader import Records, Shard, training_batches
from modeling.pretrained import CONFIG_FILE, PretrainedModel
from training.checkpoint import (
    TrainingState,
    load_training_state,
    model_directory,
    newest_checkpoint,
    save_checkpoint,
    write_text_atomically,
)
from training.distributed import join
from training.journal import METRICS_FILE, Journal
from training.loop import Progress, Stopped, train
from training.optimizer import build_optimizer
from training.schedule import learning_rates
from training.step import Mode, StepOptions, build_train_step, place
from utils.errors import UserError

RUN_FILE = "run.json"
Model = TypeVar("Model", bound=PretrainedModel)


class TrainingConfig(Protocol):
    """The sections that every training command's configuration has."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def batch(self) -> BatchFlags: ...
    @property
    def optimizer(self) -> OptimizerFlags: ...
    @property
    def run(self) -> RunFlags: ...
    @property
    def device(self) -> DeviceFlags: ...


@dataclass(frozen=True)
class Task:
    """What a command trains on and how it judges the result."""

    records: Records
    seq_length: int
    predictions: int  # masked-LM positions of a record, for counting operations
    vocab_file: Path | None  # saved with the model
    do_lower_case: bool
    evaluate: Callable[[Callable[[str], None]], dict[str, float]] | None  # takes where to say how far it is


class Run:
    """Joins the job, claims the output directory and finds where to start.

    Attributes:
        mode: "eager" or "graph".
        world: this process among its job's.
        checkpoint: what the run resumes from, if anything.
        start: the model directory whose weights it starts from, if any.

    Raises:
        UserError: the directory holds another run and neither --resume nor --overwrite_output_dir is given.
    """

    def __init__(self, config: TrainingConfig, mode: Mode) -> None:
        self.config, self.mode = config, mode
        self.world = join(config.device)
        flags = config.run
        self.checkpoint_dir = Path(flags.checkpoint_path or flags.output_dir)
        self.log_dir = Path(flags.log_dir or flags.output_dir)
        if self.world.rank == 0:
            self._claim_directories()
        self.world.sum(np.zeros(1))  # others look for a checkpoint only when the first rank has made room
        self.checkpoint = newest_checkpoint(self.checkpoint_dir) if flags.resume else None
        named = config.model.init_checkpoint
        self.start = self.checkpoint or (model_directory(named) if named else None)
        self.shard = Shard(self.world.rank, self.world.size)

    @property
    def start_config(self) -> BertConfig | None:
        """The configuration of the weights to start from."""
        return BertConfig.from_json(self.start / CONFIG_FILE) if self.start else None

    def build_model(self, kind: type[Model], config: BertConfig) -> Model:
        """The model with its first weights, or those to start from, on the run's device."""
        model = kind.from_pretrained(self.start, config) if self.start else kind(config, self.config.run.seed)
        return place(self.mode, model, self.world)

    def train(self, model: PretrainedModel, task: Task) -> None:
        """Trains `model` as the flags say, evaluates it, and leaves checkpoints, logs and metrics."""
        config, flags, world = self.config, self.config.run, self.world
        rows = config.batch.train_rows(world.size) * world.size * config.batch.grad_acc_steps
        state = TrainingState(step=0, records_taken=0, seed=flags.seed)
        moments: dict[str, np.ndarray] = {}
        if self.checkpoint:
            state, moments = load_training_state(self.checkpoint)
            if state.seed != flags.seed:
                raise UserError(
                    f"--seed {flags.seed} is not the run's, which is {state.seed}: resume with the same seed."
                )
        last_record = None if flags.max_steps else round(len(task.records) * flags.epochs)
        if last_record is None:
            total_steps = flags.max_steps or 0
        else:
            total_steps = state.step + math.ceil(max(0, last_record - state.records_taken) / rows)

        rates = learning_rates(config.optimizer, max(total_steps, 1))
        optimizer = build_optimizer(model, config.optimizer)
        step = build_train_step(self.mode, model, optimizer, rates, self._step_options())
        if self.checkpoint:
            step.load_state(moments, state.step)
        batches = training_batches(
            task.records, rows=rows, seed=flags.seed, start=state.records_taken, end=last_record, shard=self.shard
        )
        progress = Progress(
            total_steps=total_steps,
            rows_per_step=rows,
            first_record=state.records_taken - state.step * rows,
            records_per_epoch=len(task.records),
            tokens_per_record=task.seq_length,
            flops_per_record=3 * model.config.forward_flops(task.seq_length, task.predictions),
        )

        with Journal(self.log_dir, first_step=state.step, total_steps=total_steps, active=world.rank == 0) as journal:

            def save(done: int) -> None:
                arrays, moments = (
                    model.to_arrays(),
                    step.state(),
                )  # by all ranks: reading global tensors is a common act
                if world.rank == 0:
                    taken = progress.first_record + done * rows
                    saved = save_checkpoint(
                        self.checkpoint_dir,
                        model,
                        arrays,
                        moments,
                        TrainingState(done, taken if last_record is None else min(taken, last_record), flags.seed),
                        vocab_file=task.vocab_file,
                        do_lower_case=task.do_lower_case,
                        keep_last=flags.keep_last,
                    )
                    journal.say(f"saved {saved}")

            judge = task.evaluate if flags.do_eval else None
            evaluate = (lambda: judge(journal.say)) if judge else None
            journal.say(self._description(model, task, total_steps, state))
            done = state.step
            if flags.do_train and done < total_steps:
                try:
                    done = train(
                        step,
                        batches,
                        first_step=done,
                        progress=progress,
                        flags=flags,
                        journal=journal,
                        learning_rate=lambda index: float(rates[index]),
                        evaluate=evaluate,
                        save=save,
                        stop_everywhere=lambda wish: bool(world.sum(np.array([float(wish)]))[0]),
                    )
                except Stopped as stopped:
                    journal.say(str(stopped))
                    sys.exit(128 + stopped.signal_number)
            if evaluate:
                journal.evaluation_row(done, evaluate())
            journal.say(
                f"done after {done} steps; the model is in {newest_checkpoint(self.checkpoint_dir) or self.start}"
            )

    def _claim_directories(self) -> None:
        flags = self.config.run
        for directory in {self.checkpoint_dir, self.log_dir}:
            left = [path for path in _of_a_run(directory) if path.exists()]
            if flags.overwrite_output_dir and not flags.resume:
                for path in left:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif directory.is_dir() and any(directory.iterdir()) and not flags.resume:
                raise UserError(
                    f"--output_dir {directory} is not empty: --resume goes on with the run in it, "
                    "--overwrite_output_dir starts anew, or name another directory."
                )
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--output_dir {directory} cannot be made: {error.strerror}.") from None
        now = to_flat_dict(self.config)
        if flags.resume:
            self._warn_of_changes(now)
        write_text_atomically(self.log_dir / RUN_FILE, json.dumps(now, indent=2) + "\n")

    def _warn_of_changes(self, now: dict[str, Any]) -> None:
        try:
            before = json.loads((self.log_dir / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        quiet = {"resume", "overwrite_output_dir"}
        changed = [n for n, v in now.items() if n not in quiet and n in before and before[n] != _as_json(v)]
        if changed:
            names = ", ".join(f"--{name} (was {before[name]})" for name in changed)
            warn(f"this run goes on with other flags than before: {names}.")

    def _step_options(self) -> StepOptions:
        config = self.config
        return StepOptions(
            world=self.world,
            seed=config.run.seed,
            grad_acc_steps=config.batch.grad_acc_steps,
            max_grad_norm=config.optimizer.max_grad_norm,
            use_fp16=config.device.use_fp16,
            nccl_fusion_threshold_mb=config.device.nccl_fusion_threshold_mb,
            nccl_fusion_max_ops=config.device.nccl_fusion_max_ops,
        )

    def _description(self, model: PretrainedModel, task: Task, total_steps: int, state: TrainingState) -> str:
        shape = model.config
        parameters = sum(parameter.numel() for parameter in model.parameters())
        per_rank = self.config.batch.train_rows(self.world.size)
        begin = f"resuming {self.checkpoint}" if self.checkpoint else f"starting from {self.start or 'fresh weights'}"
        return "\n".join(
            [
                f"{type(model).__name__}: {shape.num_hidden_layers} layers, hidden size {shape.hidden_size}, "
                f"{parameters / 1e6:.1f} million parameters",
                f"{self.mode} mode, {self.world.size} process(es) on {self.world.device.split(':')[0]}, "
                f"OneFlow {flow.__version__}",
                f"{len(task.records):,} records of {task.seq_length} tokens; one update takes {per_rank} rows x "
                f"{self.world.size} ranks x {self.config.batch.grad_acc_steps} micro-batches",
                f"{begin} at step {state.step} of {total_steps}",
            ]
        )


def _of_a_run(directory: Path) -> list[Path]:
    """What runs leave in a directory; nothing else is ever removed."""
    names = (METRICS_FILE, RUN_FILE, "latest", "tensorboard", "loss_curve.png")
    return [*(directory / name for name in names), *directory.glob("checkpoint-*"), *directory.glob(".checkpoint-*")]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
