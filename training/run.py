"""One training run: its directories, where it starts from, and the way from a model and records to checkpoints.

What commands differ in (records, model, evaluation) they bring; everything else is here once.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import oneflow as flow

import kernels
from configs.cli import to_flat_dict, warn
from configs.model import BertConfig, ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from conversion import Checkpoint, detect, read_checkpoint
from conversion.hub import local_directory
from conversion.tokenizer_files import Vocabulary, read_vocabulary, vocab_path
from data.reading.loader import (
    Batch,
    Records,
    Shard,
    evaluation_batches,
    evaluation_order,
    training_batches,
    without_padding,
)
from modeling.ops import MASKED_SCORE
from modeling.pretrained import PretrainedModel
from training.checkpoint import (
    TrainingState,
    load_training_state,
    save_checkpoint,
    write_text_atomically,
)
from training.distributed import join
from training.journal import METRICS_FILE, Journal
from training.loop import Interrupted, Progress, Stopped, StopSignals, train
from training.optimizer import build_optimizer, weight_norm
from training.probes import CLOZE_FILE, Probes
from training.schedule import BatchSchedule, learning_rates
from training.step import Mode, StepOptions, build_train_step, place
from utils.checkpoints import checkpoint_step, model_directory, newest_checkpoint
from utils.errors import UserError

RUN_FILE = "run.json"
_MOST_FILLING_ROWS = 128  # some models' word embeddings are filled up to a round number
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
    vocabulary: Vocabulary | None  # saved with the model
    evaluate: Callable[[Callable[[str], None]], dict[str, float]] | None  # takes where to say how far it is
    figure: str = "eval_total_loss"  # among what `evaluate` gives
    answers: bool = False  # whether `evaluate` leaves answers beside its figures, which other flags may ask for anew
    inspect: Probes | None = None  # what else is found out about checkpoints


class Run:
    """Joins the job, looks at the output directory and finds where to start.

    Attributes:
        mode: "eager" or "graph".
        world: this process among its job's.
        checkpoint: what the run resumes from, if anything.
        start: what holds the weights it starts from, if anything; of any format that `conversion` reads.

    Raises:
        UserError: the directory holds another run and neither --resume nor --overwrite_output_dir is given; or there
            is no training (`--do_train False`) and nothing to start from.
    """

    def __init__(self, config: TrainingConfig, mode: Mode) -> None:
        self.config, self.mode = config, mode
        if mode == "graph" and config.optimizer.clip == "value" and config.batch.grad_acc_steps > 1:
            raise UserError(
                "--clip value with --grad_acc_steps above 1 works in eager mode alone: a compiled job cannot reach the "
                "sum of its micro-batches; take --clip norm."
            )
        if mode == "graph" and config.device.activation_checkpointing:
            raise UserError(
                "--activation_checkpointing works in eager mode alone, a compiled job would take more memory with it: "
                "lower --train-batch-size and raise --grad_acc_steps, or train with run_eager_pretraining.py."
            )
        if config.device.use_ddp if mode == "graph" else config.device.use_consistent:
            flag, other = ("use_ddp", "eager") if mode == "graph" else ("use_consistent", "graph")
            warn(f"--{flag} changes nothing here: it is {other} mode's; the launcher's processes work together anyway.")
        self.world = join(config.device)
        self._check_kernels()
        self.bf16 = self.world.device == "cpu" and config.device.use_fp16 and kernels.set_bf16(True)
        if self.world.device == "cpu" and config.device.use_fp16 and not self.bf16:
            warn("--use_fp16 changes nothing here: this CPU, or the stock kernels, multiply in fp32 alone.")
        flags, named = config.run, self._start_name()
        self.checkpoint_dir, self.log_dir = directories(flags)
        if flags.do_train and self.world.rank == 0:
            check_directories(flags)
        self.world.wait()  # the first rank begins to write when all have looked at what there is
        own = flags.resume or not (flags.do_train or named)  # whoever only evaluates means the run that is there
        self.checkpoint = newest_checkpoint(self.checkpoint_dir) if own else None
        if self.checkpoint is None and not named and not flags.do_train:
            raise UserError(f"there is no checkpoint in {self.checkpoint_dir}: name one with --init_checkpoint.")
        self.start = self.checkpoint or (model_directory(local_directory(named)) if named else None)
        self.resumes = self.checkpoint is not None
        goes_on = flags.goes_on if flags.load_optimizer_state is None else flags.load_optimizer_state
        if flags.load_from == "checkpoint" and goes_on:
            self.checkpoint = self.start
        newest = checkpoint_step(self.checkpoint) if flags.resume and self.checkpoint else -1
        if not self.world.agrees(newest):
            raise UserError(f"--output_dir {self.checkpoint_dir} must be on a disk that all hosts share, to --resume.")
        self._weights = self._read_weights(self.start) if self.start else None
        self.shard = Shard(self.world.rank, self.world.size)
        self.stop = StopSignals(self.world.agree)

    def _check_kernels(self) -> None:
        """Raises UserError where ranks would compute by other means: a compiled job hangs, dropout masks differ."""
        on_cpu = self.world.device == "cpu"
        if not self.world.agrees(on_cpu):
            raise UserError("some ranks compute on CUDA and others on the CPU: give every host the same --device.")
        if on_cpu and not self.world.agrees(kernels.is_loaded()):
            raise UserError(
                f"the CPU kernels work on some hosts alone; the first rank has {kernels.load().reason}: run `python -m "
                "kernels` on each, or give all of them --cpu_kernels False."
            )

    def _start_name(self) -> str | None:
        """What the flags name to start from: a path, or a name on the hub."""
        flags, named = self.config.run, self.config.model.init_checkpoint
        if flags.load_from == "scratch":
            return None
        if flags.load_from == "checkpoint":
            return flags.checkpoint_path
        if flags.load_from == "huggingface":
            return named or f"bert-{self.config.model.model_size or 'base'}-uncased"
        return named

    @property
    def start_config(self) -> BertConfig | None:
        """The configuration of the weights to start from."""
        return self._weights.config if self._weights else None

    @property
    def start_vocab_file(self) -> Path | None:
        """The vocabulary beside the weights to start from."""
        return self._weights.vocab_file if self._weights else None

    def forget(self, prefix: str) -> bool:
        """Leaves out the weights to start from whose names begin so; whether there are any."""
        state = self._weights.state if self._weights else {}
        names = [name for name in state if name.startswith(prefix)]
        for name in names:
            del state[name]
        return bool(names)

    def vocabulary(self, named: str | None, do_lower_case: bool | None) -> Vocabulary:
        """The vocabulary that --vocab_file names, or the one beside the weights to start from.

        Raises:
            UserError: there is none, or it is not the weights'.
        """
        own = self.start_vocab_file
        file = named_vocabulary(named) if named else own
        if file is None:
            raise UserError("--vocab_file is missing: name the vocab.txt or tokenizer.json of the model.")
        vocabulary = read_vocabulary(file, do_lower_case)
        if own:
            models = read_vocabulary(own, do_lower_case)
            if models.ids != vocabulary.ids:
                raise UserError(f"--vocab_file {file} is not the model's, {own}: leave the flag out.")
            vocabulary = vocabulary if vocabulary.source else models  # a bare vocab.txt has the model's rules
        vocabulary.warn_of_contradictions(do_lower_case)
        return vocabulary

    def check_sizes(self, bert: BertConfig, vocab_size: int, max_seq_length: int) -> None:
        """Raises UserError where the vocabulary cannot be the model's, or it has no positions for such sequences."""
        unused = bert.vocab_size - vocab_size
        if unused < 0 or (unused >= _MOST_FILLING_ROWS and self.start_config):
            raise UserError(
                f"--vocab_file has {vocab_size} entries, the model {bert.vocab_size}: it is not the model's vocabulary."
            )
        if max_seq_length > bert.max_position_embeddings:
            raise UserError(
                f"--max_seq_length {max_seq_length} is more than the model's {bert.max_position_embeddings} positions: "
                "lower it."
            )

    def padded(self, records: Records) -> Records:
        """The records as --padding wants them in batches."""
        padding = self.config.batch.padding or ("longest" if records.known_lengths is not None else "max_length")
        return without_padding(records) if padding == "longest" else records

    def check_alike(self, training: Records | None, *evaluation: Records | None) -> None:
        """Raises UserError where ranks would train or evaluate on other records than the first one."""
        if self.world.size == 1:
            return
        for purpose, sets in (("train", (training,)), ("evaluate", evaluation)):
            each = ",".join(str(records and records.checksum()) for records in sets)
            if not self.world.agrees(zlib.crc32(each.encode())):
                raise UserError(
                    f"the records to {purpose} on differ between hosts: name the same ones everywhere, and copy them "
                    "anew."
                )

    def build_model(self, kind: type[Model], config: BertConfig, unused: tuple[str, ...] = ()) -> Model:
        """The model with its first weights, or those to start from, on the run's device.

        Args:
            kind, config: what to build.
            unused: beginnings of names of weights that no figure depends on, and that may be lacking.

        Raises:
            UserError: the weights lack something that would then be used untrained.
        """
        model = kind(config, self.config.run.seed)
        if self._weights:
            lacking = model.load_arrays(self._weights.state, source=str(self.start))
            fresh = [name for name in lacking if not name.startswith(unused)]
            self._weights.state.clear()  # a large model need not be in memory twice
            if fresh and not self.config.run.do_train:
                raise UserError(f"{self.start} lacks {fresh[0]}: train it first, with --do_train True.")
        if self.world.size > 1 and not self.world.agrees(model.checksum()):
            raise UserError(f"the weights to start from, {self.start}, differ between hosts: copy them anew.")
        return place(self.mode, model, self.world)

    def evaluate(self, judge: Callable[[Callable[[str], None]], dict[str, float]]) -> None:
        """Evaluates without training; the row joins metrics.jsonl, under the step of the weights."""
        step = load_training_state(self.checkpoint)[0].step if self.checkpoint else 0
        with Journal(self.log_dir, first_step=None, total_steps=0, active=self.world.rank == 0) as journal:
            journal.evaluation_row(step, judge(journal.say))

    def evaluation_batches(self, records: Records, say: Callable[[str], None]) -> Iterator[Batch]:
        """This rank's share of all records in batches, telling how far it is.

        Raises:
            Interrupted: a signal asks the training to stop.
        """
        rows = self.config.batch.val_rows(self.world.size) * self.world.size
        for number, batch in enumerate(evaluation_batches(records, rows=rows, shard=self.shard), 1):
            if self.stop.watching and self.stop.wanted():
                raise Interrupted
            yield batch
            if number % self.config.run.val_print_every_n_iters == 0:
                say(f"evaluation: batch {number} of {-(-len(records) // rows)}")

    def outputs(
        self,
        eval_step: Callable[[Batch], dict[str, np.ndarray]],
        records: Records,
        names: Sequence[str],
        say: Callable[[str], None],
    ) -> dict[str, np.ndarray]:
        """The named outputs of a model for all records, in their order: {name: [len(records), L]}, on every rank.

        Places that a batch was too short for hold the score of what is not to be attended to.
        """
        order = evaluation_order(records)
        results: dict[str, np.ndarray] = {}
        done = 0
        for batch in self.evaluation_batches(records, say):
            outputs = eval_step({name: batch[name] for name in ("input_ids", "input_mask", "segment_ids")})
            rows = len(batch["input_ids"]) * self.world.size
            numbers = order[done : done + rows]
            done += rows
            for name in names:
                values = outputs[name][: len(numbers)]
                if name not in results:  # the first batch is the longest
                    results[name] = np.full((len(records), values.shape[1]), MASKED_SCORE, values.dtype)
                results[name][numbers, : values.shape[1]] = values
        return results

    def train(self, model: PretrainedModel, task: Task) -> None:
        """Trains `model` as the flags say, evaluates it, and leaves checkpoints, logs and metrics."""
        config, flags, world = self.config, self.config.run, self.world
        if world.rank == 0:
            self._claim_directories()
        batch_sizes = BatchSchedule.of(config.batch, world.size)
        state = TrainingState(step=0, records_taken=0, seed=flags.seed)
        moments: dict[str, np.ndarray] = {}
        if self.checkpoint:
            state, moments = load_training_state(self.checkpoint)
            if self.resumes and state.seed != flags.seed:
                raise UserError(
                    f"--seed {flags.seed} is not the run's, which is {state.seed}: resume with the same seed."
                )
        last_record = None if flags.max_steps else round(len(task.records) * flags.epochs)
        if last_record is None:
            total_steps = flags.max_steps or 0
        else:
            total_steps = state.step + batch_sizes.steps_for(last_record - state.records_taken, state.step)

        if flags.do_train and not self.resumes and state.step >= max(total_steps, 1):
            raise UserError(
                f"{self.checkpoint} is after {state.step} steps already, which leaves nothing to train: give a higher "
                "--max_steps or --epochs, or --load_optimizer_state false."
            )

        def records_before(step: int) -> int:
            return state.records_taken + batch_sizes.records_before(step) - batch_sizes.records_before(state.step)

        update_rows = batch_sizes.micro_rows * batch_sizes.peak
        group = state.group or update_rows
        rates = learning_rates(config.optimizer, max(total_steps, 1), update_rows)
        optimizer = build_optimizer(model, config.optimizer, self.mode)
        step = build_train_step(self.mode, model, optimizer, rates, self._step_options())
        if self.checkpoint:
            step.load_state(moments, state.step)
        batches = training_batches(
            task.records,
            rows=batch_sizes.sizes(state.step),
            group=group,
            seed=flags.seed,
            start=state.records_taken,
            end=last_record,
            shard=self.shard,
        )

        def work(batch: Batch) -> np.ndarray:
            rows, length = batch["input_ids"].shape
            flops = 3 * rows * model.config.forward_flops(length, task.predictions)
            return world.size * np.array([batch["input_mask"].sum(), flops], np.float64)

        progress = Progress(
            total_steps=total_steps,
            records_before=records_before,
            records_per_epoch=len(task.records),
            work=work,
        )

        tokenizer = task.vocabulary.files(model.config.max_position_embeddings) if task.vocabulary else {}
        with Journal(self.log_dir, first_step=state.step, total_steps=total_steps, active=world.rank == 0) as journal:

            def save(done: int) -> None:
                arrays, moments = model.to_arrays(), step.state()  # by all ranks, for global tensors
                if world.rank == 0:
                    taken = records_before(done)
                    saved = save_checkpoint(
                        self.checkpoint_dir,
                        model,
                        arrays,
                        moments,
                        TrainingState(
                            done, taken if last_record is None else min(taken, last_record), flags.seed, group
                        ),
                        tokenizer=tokenizer,
                        keep_last=flags.keep_last,
                    )
                    journal.say(f"saved {saved}")

            def inspect(done: int, last: bool = False) -> None:
                checkpoint = newest_checkpoint(self.checkpoint_dir)
                if world.rank == 0 and task.inspect and checkpoint:
                    task.inspect(checkpoint, done, last, journal)
                world.wait()  # others need not know whether there is anything to look for

            every = task.inspect.flags.squad_frequency if task.inspect else 0
            judge = task.evaluate if flags.do_eval else None
            evaluate = (lambda: judge(journal.say)) if judge else None

            def evaluated(done: int) -> bool:
                return world.agree(journal.evaluated(done, task.figure))

            journal.say(self._description(model, task, total_steps, state))
            done = state.step
            try:
                if flags.do_train and done < total_steps:
                    if done and self.resumes:  # the run may have been killed while it looked
                        inspect(done)
                    with self._profiled(journal):
                        done = train(
                            step,
                            batches,
                            first_step=done,
                            progress=progress,
                            flags=flags,
                            journal=journal,
                            learning_rate=lambda index: float(rates[index]),
                            weight_norm=lambda: weight_norm(model),
                            evaluate=evaluate,
                            evaluated=evaluated,
                            save=save,
                            inspect=inspect,
                            saves_too=lambda number: bool(every) and number % every == 0,
                            stop=self.stop,
                        )
                again = task.answers and done == state.step  # a finished run, resumed
                if evaluate and (again or not evaluated(done)):
                    with self.stop:
                        try:
                            journal.evaluation_row(done, evaluate())
                        except Interrupted:
                            raise self.stop.stopped(done) from None
            except Stopped as stopped:
                journal.say(str(stopped))
                sys.exit(128 + stopped.signal_number)
            inspect(done, last=True)
            journal.say(
                f"done after {done} steps; the model is in {newest_checkpoint(self.checkpoint_dir) or self.start}"
            )

    def _read_weights(self, path: Path) -> Checkpoint:
        heads = self.config.model.num_attention_heads
        unsaid = heads is not None and detect(path) in ("lazy", "oneflow")  # these formats keep tensors alone
        return read_checkpoint(path, config={"num_attention_heads": heads} if unsaid else None)

    def clear_directories(self, flags: RunFlags) -> None:
        """Removes what an earlier run left in a run's directories, if --overwrite_output_dir asks for it."""
        if self.world.rank or flags.resume or not flags.overwrite_output_dir:
            return
        for path in (path for directory in set(directories(flags)) for path in _of_a_run(directory)):
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _claim_directories(self) -> None:
        flags = self.config.run
        self.clear_directories(flags)
        for directory in {self.checkpoint_dir, self.log_dir}:
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
            micro_rows=config.batch.train_rows(self.world.size),
            max_grad_norm=config.optimizer.norm_limit,
            clip_value=config.optimizer.clip_value if config.optimizer.clip == "value" else 0.0,
            use_fp16=config.device.use_fp16 and self.world.device != "cpu",
            activation_checkpointing=config.device.activation_checkpointing,
            nccl_fusion_threshold_mb=config.device.nccl_fusion_threshold_mb,
            nccl_fusion_max_ops=config.device.nccl_fusion_max_ops,
        )

    def _device_description(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in kernels.configure().items())
        if self.world.device != "cpu":
            return settings
        products = "bf16 products with fp32 sums" if self.bf16 else "fp32 products"
        return f"{kernels.load().reason}; {products}; {settings}"

    @contextmanager
    def _profiled(self, journal: Journal) -> Iterator[None]:
        """Inside, the time of each operation is counted if --profile asks for it, and told at the end."""
        if not self.config.device.profile:
            yield
            return
        with kernels.profile() as report:
            yield
        journal.say(report.table())

    def _description(self, model: PretrainedModel, task: Task, total_steps: int, state: TrainingState) -> str:
        shape = model.config
        parameters = sum(parameter.numel() for parameter in model.parameters())
        per_rank = self.config.batch.train_rows(self.world.size)
        begin = f"resuming {self.checkpoint}" if self.checkpoint else f"starting from {self.start or 'fresh weights'}"
        widths = [task.seq_length] if task.records.lengths is None else task.records.widths.tolist()
        lengths = " or ".join(str(min(width, task.seq_length)) for width in widths)
        optimizer = self.config.optimizer
        name = self.config.run.run_name or (
            f"{'variant' if shape.is_variant else 'bert'}-{shape.num_hidden_layers}x{shape.hidden_size}-"
            f"{optimizer.optim_name}-lr{optimizer.lr:g}-s{task.seq_length}-seed{self.config.run.seed}"
        )
        return "\n".join(
            [
                f"run {name}",
                f"{type(model).__name__}: {shape.num_hidden_layers} layers, hidden size {shape.hidden_size}, "
                f"{parameters / 1e6:.1f} million parameters",
                f"{self.mode} mode, {self.world.size} process(es) on {self.world.device.split(':')[0]}, "
                f"OneFlow {flow.__version__}",
                self._device_description(),
                f"{len(task.records):,} records of {lengths} tokens; one update takes {per_rank} rows x "
                f"{self.world.size} ranks x {self.config.batch.grad_acc_steps} micro-batches",
                f"{begin} at step {state.step} of {total_steps}",
            ]
        )


def named_vocabulary(name: str) -> Path:
    """The vocabulary's file that --vocab_file means: itself, or that of a model directory, a run or a hub model."""
    return vocab_path(model_directory(local_directory(name)))


def directories(flags: RunFlags) -> tuple[Path, Path]:
    """Where a run's checkpoints and its logs live."""
    saves_in = None if flags.load_from else flags.checkpoint_path
    return Path(saves_in or flags.output_dir), Path(flags.log_dir or flags.output_dir)


def check_directories(flags: RunFlags) -> None:
    """Raises UserError where a run would mix with another one's files."""
    for directory in set(directories(flags)):
        claimed = flags.resume or flags.overwrite_output_dir
        if not claimed and directory.is_dir() and any(directory.iterdir()):
            raise UserError(
                f"--output_dir {directory} is not empty: --resume goes on with the run in it, "
                "--overwrite_output_dir starts anew, or name another directory."
            )


def _of_a_run(directory: Path) -> list[Path]:
    """What runs, and their phases, leave in a directory; nothing else is ever removed."""
    names = [METRICS_FILE, RUN_FILE, "latest", "tensorboard", "loss_curve.png", "best", "eval_results.txt", CLOZE_FILE]
    names += [f"{name}.json" for name in ("predictions", "nbest_predictions", "null_odds", "eval_results")]
    names += [path.name for pattern in ("checkpoint-*", ".checkpoint-*") for path in directory.glob(pattern)]
    phases = [path for phase in directory.glob("phase[0-9]*") for path in _of_a_run(phase)]
    return [*(directory / name for name in names), *phases]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
