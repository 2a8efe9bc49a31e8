"""Determines the start of a run: the weights, their vocabulary, and the state to resume."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from configs.model import BertConfig, ModelFlags
from configs.training import RunFlags
from conversion import Checkpoint, detect, read_checkpoint
from conversion.hub import local_directory
from conversion.tokenizer_files import Vocabulary, read_vocabulary, vocab_path
from data.reading.loader import Records
from data.reading.packing import PackedRows
from launch.job_shape import JobShape
from modeling.layout import to_numpy
from modeling.pretrained import PretrainedModel, untrained_head
from training.checkpoint import TrainingState, load_training_state
from training.config import TrainingConfig
from training.distributed import World
from training.layers import depth
from training.run_directory import RunDirectory
from utils.checkpoints import checkpoint_step, model_directory, newest_checkpoint
from utils.errors import UserError
from utils.messages import warn

_MAX_PADDING_ROWS = 128  # some models' word embeddings are padded to a round number of rows
Model = TypeVar("Model", bound=PretrainedModel)


@dataclass(frozen=True)
class Start:
    """The start of a run.

    Attributes:
        path: the path of the weights, in any format that `conversion` reads; None for random weights.
        checkpoint: the checkpoint with the optimizer state and the step to continue from; None to start at step 0.
        resumes: whether the run continues the one in its output directory.
        weights: the checkpoint at `path`.
    """

    path: Path | None = None
    checkpoint: Path | None = None
    resumes: bool = False
    weights: Checkpoint | None = None

    @property
    def config(self) -> BertConfig | None:
        """The configuration of the weights."""
        return self.weights.config if self.weights else None

    @property
    def vocab_file(self) -> Path | None:
        """The vocabulary next to the weights."""
        return self.weights.vocab_file if self.weights else None

    def drop_weights(self, prefix: str) -> bool:
        """Drops the weights whose names have this prefix; returns whether there are any."""
        state = self.weights.state if self.weights else {}
        names = [name for name in state if name.startswith(prefix)]
        for name in names:
            del state[name]
        return bool(names)

    def check_head(self, name: str, do_train: bool) -> None:
        """Raises UserError if the run only evaluates and the weights have no head of this name."""
        if self.weights and not do_train and not any(each.startswith(f"{name}.") for each in self.weights.state):
            raise untrained_head(str(self.path), name)

    def training_state(self, seed: int) -> tuple[TrainingState, dict[str, np.ndarray]]:
        """The state to continue from and the optimizer's moments.

        Raises:
            UserError: the checkpoint is damaged, or the resumed run has another seed.
        """
        if not self.checkpoint:
            return TrainingState(step=0, records_taken=0, seed=seed), {}
        state, moments = load_training_state(self.checkpoint)
        if self.resumes and state.seed != seed:
            raise UserError(f"--seed {seed} differs from the run's seed, {state.seed}: resume with the same seed.")
        return state, moments


def find_start(config: TrainingConfig, directory: RunDirectory, world: World) -> Start:
    """Finds the start that the flags describe, and reads its weights.

    Raises:
        UserError: there are no weights to evaluate, or ranks find different checkpoints.
    """
    flags, named = config.run, _named_start(config)
    own = flags.resume or not (flags.do_train or named)  # without training, use the run in the output directory
    resumed = newest_checkpoint(directory.checkpoints) if own else None
    if resumed is None and not named and not flags.do_train:
        raise UserError(
            f"there is no checkpoint in {directory.checkpoints} to evaluate: set one with --init_checkpoint."
        )
    path = resumed or (model_directory(local_directory(named)) if named else None)
    checkpoint = path if flags.loads_optimizer_state else resumed
    step = checkpoint_step(checkpoint) if flags.resume and checkpoint else -1
    if not world.all_equal(step):
        raise UserError(
            f"the ranks find different checkpoints in --output_dir {directory.checkpoints}: for --resume, put it on a "
            "disk that all hosts share."
        )
    return Start(path, checkpoint, resumed is not None, _read_weights(path, config.model) if path else None)


def _named_start(config: TrainingConfig) -> str | None:
    """The initial weights in the flags: a path, or a model on the hub."""
    flags, named = config.run, config.model.init_checkpoint
    if flags.load_from == "scratch":
        return None
    if flags.load_from == "checkpoint":
        return flags.checkpoint_path
    if flags.load_from == "huggingface":
        return named or f"bert-{config.model.model_size or 'base'}-uncased"
    return named


def _read_weights(path: Path, flags: ModelFlags) -> Checkpoint:
    heads = flags.num_attention_heads
    lacks_config = heads is not None and detect(path) in ("lazy", "oneflow")  # these formats only contain tensors
    return read_checkpoint(path, config={"num_attention_heads": heads} if lacks_config else None)


def named_vocabulary(name: str) -> Path:
    """The vocabulary file for a name: the file itself, or that of a model directory, a run or a hub model."""
    return vocab_path(model_directory(local_directory(name)))


def find_vocabulary(start: Start, named: str | None, do_lower_case: bool | None) -> Vocabulary:
    """The vocabulary for fine-tuning: the given one, or the one next to the weights.

    Raises:
        UserError: there is none, or it does not belong to the weights.
    """
    own = start.vocab_file
    file = named_vocabulary(named) if named else own
    if file is None:
        raise UserError("--vocab_file is missing: pass the vocab.txt or tokenizer.json of the model.")
    vocabulary = read_vocabulary(file, do_lower_case)
    if own:
        models = read_vocabulary(own, do_lower_case)
        if models.ids != vocabulary.ids:
            raise UserError(f"--vocab_file {file} is not the model's vocabulary, {own}: omit the flag.")
        vocabulary = (
            vocabulary if vocabulary.source else models
        )  # the model's rules apply to a vocab.txt without settings
    vocabulary.warn_of_contradictions(do_lower_case)
    return vocabulary


def warn_of_random_weights(start: Start, bert: BertConfig) -> None:
    """Warns if fine-tuning starts from untrained weights."""
    if start.path is None and JobShape.current().is_first:
        size = f"{bert.num_hidden_layers} layers of size {bert.hidden_size}"
        warn(
            f"fine-tuning starts from random weights ({size}), which learn little: set a pretrained model with "
            "--init_checkpoint, such as bert-base-uncased."
        )


def check_sizes(start: Start, bert: BertConfig, vocab_size: int, max_seq_length: int) -> None:
    """Raises UserError if the vocabulary does not fit the model, or the sequences are longer than its positions."""
    unused = bert.vocab_size - vocab_size
    if unused < 0 or (unused >= _MAX_PADDING_ROWS and start.config):
        raise UserError(
            f"--vocab_file has {vocab_size} entries, but the model has {bert.vocab_size}: use the model's vocabulary."
        )
    if max_seq_length > bert.max_position_embeddings:
        raise UserError(
            f"--max_seq_length {max_seq_length} is more than the model's {bert.max_position_embeddings} positions: "
            "lower it."
        )


def check_same_records(world: World, training: Records | None, evaluation: Iterable[Records]) -> None:
    """Raises UserError if a rank would train or evaluate on different records than the first rank."""
    if world.shape.size == 1:
        return
    for purpose, sets in (("train", (training,)), ("evaluate", tuple(evaluation))):
        each = ",".join(str(records and records.checksum()) for records in sets)
        if not world.all_equal(zlib.crc32(each.encode())):
            raise UserError(
                f"the records to {purpose} on differ between hosts: copy them again, so that all hosts have the same."
            )


def build_model(
    start: Start,
    kind: Callable[[BertConfig, int], Model],
    bert: BertConfig,
    flags: RunFlags,
    world: World,
    unused: tuple[str, ...] = (),
    reinit: int = 0,
) -> Model:
    """Builds the model with the initial or random weights; its parameters are not placed yet.

    Args:
        start: the start; its weights are released afterwards, so that they are not in memory twice.
        kind, bert: the model to build.
        flags: the seed, and whether the run trains.
        world: all ranks must build the same model.
        unused: prefixes of the names of weights that do not affect the metrics; these may be missing.
        reinit: in a new run, the pooler and this many of the highest layers keep their random weights (Zhang et
            al. 2021).

    Raises:
        UserError: the model has fewer than `reinit` layers; without training, a required weight is missing; or ranks
            have different weights.
    """
    model = kind(bert, flags.seed)
    if start.weights and reinit and flags.do_train and not start.checkpoint:
        start.weights.state.update(_fresh_layers(model, reinit))
    if start.weights:
        model.load_arrays(start.weights.state, source=str(start.path), optional=("",) if flags.do_train else unused)
        start.weights.state.clear()
    if world.shape.size > 1 and not world.all_equal(model.checksum()):
        raise UserError(f"the weights in {start.path} differ between hosts: copy them again.")
    return model


def _fresh_layers(model: PretrainedModel, count: int) -> dict[str, np.ndarray]:
    """{name: initial values} of the highest layers and the pooler."""
    layers = model.config.num_hidden_layers
    if count > layers:
        raise UserError(f"--reinit_layers {count} is more than the model's {layers} layers: lower it.")
    return {
        name: to_numpy(parameter)
        for name, parameter in model.own_parameters()
        if layers - count < depth(name, layers) <= layers or name.startswith("bert.pooler.")
    }


def in_same_rows(state: TrainingState, start: Start, rows: PackedRows | None) -> TrainingState:
    """The state with the size of the run's packed rows.

    Raises:
        UserError: the run to resume has packed rows of another size or none, so its position would be wrong.
    """
    tokens = rows.tokens if rows else None
    if start.resumes and state.row_tokens != tokens:
        found, asked = (
            f"packed rows of {each:,} tokens" if each else "no packed rows" for each in (state.row_tokens, tokens)
        )
        raise UserError(
            f"{start.checkpoint} was trained with {found}, but the flags ask for {asked}: resume with the same "
            "--packing and --train_batch_size."
        )
    return replace(state, row_tokens=tokens)


def check_steps_left(start: Start, step: int, total_steps: int) -> None:
    """Raises UserError if a new run's initial checkpoint is already at its last step."""
    if not start.resumes and step >= max(total_steps, 1):
        raise UserError(
            f"{start.checkpoint} is already after {step} steps, which leaves nothing to train: set a higher "
            "--max_steps or --epochs, or --load_optimizer_state false."
        )
