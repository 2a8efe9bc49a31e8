"""Where a run starts: the weights, the vocabulary that belongs to them, and the state of the run that it resumes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from configs.model import BertConfig, ModelFlags
from configs.training import RunFlags
from conversion import Checkpoint, detect, read_checkpoint
from conversion.hub import local_directory
from conversion.tokenizer_files import Vocabulary, read_vocabulary, vocab_path
from data.reading.loader import Records
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

_MAX_PADDING_ROWS = 128  # some models' word embeddings have more rows than their vocabulary, up to a round number
Model = TypeVar("Model", bound=PretrainedModel)


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        path: holds the weights, in any format that `conversion` reads; None: they are initialized at random.
        checkpoint: holds the optimizer's state and the step to continue from; None: the run starts at step 0.
        resumes: whether the run continues the one in its own directory.
        weights: what `path` holds.
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
        """The vocabulary beside the weights."""
        return self.weights.vocab_file if self.weights else None

    def drop_weights(self, prefix: str) -> bool:
        """Leaves out the weights whose names have this prefix; returns whether there are any."""
        state = self.weights.state if self.weights else {}
        names = [name for name in state if name.startswith(prefix)]
        for name in names:
            del state[name]
        return bool(names)

    def check_head(self, name: str, do_train: bool) -> None:
        """Raises UserError where the run only evaluates and the weights have no head of this name."""
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
            raise UserError(f"--seed {seed} is not the seed of the run, {state.seed}: resume with the same seed.")
        return state, moments


def find_start(config: TrainingConfig, directory: RunDirectory, world: World) -> Start:
    """Finds what the flags say to start from, and reads its weights.

    Raises:
        UserError: there is nothing to start from although the run does not train, or ranks find different checkpoints.
    """
    flags, named = config.run, _named_start(config)
    own = flags.resume or not (flags.do_train or named)  # without training, the run in the output directory is meant
    resumed = newest_checkpoint(directory.checkpoints) if own else None
    if resumed is None and not named and not flags.do_train:
        raise UserError(
            f"there is no checkpoint in {directory.checkpoints} to evaluate: name one with --init_checkpoint."
        )
    path = resumed or (model_directory(local_directory(named)) if named else None)
    checkpoint = path if flags.loads_optimizer_state else resumed
    step = checkpoint_step(checkpoint) if flags.resume and checkpoint else -1
    if not world.all_equal(step):
        raise UserError(
            f"the ranks find different checkpoints in --output_dir {directory.checkpoints}: put it on a disk that all "
            "hosts share, to use --resume."
        )
    return Start(path, checkpoint, resumed is not None, _read_weights(path, config.model) if path else None)


def _named_start(config: TrainingConfig) -> str | None:
    """The start that the flags name: a path, or a model on the hub."""
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
    lacks_config = heads is not None and detect(path) in ("lazy", "oneflow")  # these formats only hold tensors
    return read_checkpoint(path, config={"num_attention_heads": heads} if lacks_config else None)


def named_vocabulary(name: str) -> Path:
    """The vocabulary file that a name means: itself, or that of a model directory, a run or a model on the hub."""
    return vocab_path(model_directory(local_directory(name)))


def find_vocabulary(start: Start, named: str | None, do_lower_case: bool | None) -> Vocabulary:
    """The vocabulary to fine-tune with: the named one, or the one beside the weights.

    Raises:
        UserError: there is none, or it is not the vocabulary of the weights.
    """
    own = start.vocab_file
    file = named_vocabulary(named) if named else own
    if file is None:
        raise UserError("--vocab_file is missing: name the vocab.txt or tokenizer.json of the model.")
    vocabulary = read_vocabulary(file, do_lower_case)
    if own:
        models = read_vocabulary(own, do_lower_case)
        if models.ids != vocabulary.ids:
            raise UserError(f"--vocab_file {file} is not the model's vocabulary, {own}: leave the flag out.")
        vocabulary = vocabulary if vocabulary.source else models  # a vocab.txt without settings has the model's rules
    vocabulary.warn_of_contradictions(do_lower_case)
    return vocabulary


def warn_of_random_weights(start: Start, bert: BertConfig) -> None:
    """Warns where fine-tuning would begin with weights that were never trained."""
    if start.path is None and JobShape.current().is_first:
        size = f"{bert.num_hidden_layers} layers of size {bert.hidden_size}"
        warn(
            f"fine-tuning starts from random weights ({size}), which learn little: name a pretrained model with "
            "--init_checkpoint, such as bert-base-uncased."
        )


def check_sizes(start: Start, bert: BertConfig, vocab_size: int, max_seq_length: int) -> None:
    """Raises UserError where the vocabulary is not the model's, or its positions do not suffice for the sequences."""
    unused = bert.vocab_size - vocab_size
    if unused < 0 or (unused >= _MAX_PADDING_ROWS and start.config):
        raise UserError(
            f"--vocab_file has {vocab_size} entries, the model {bert.vocab_size}: it is not the model's vocabulary."
        )
    if max_seq_length > bert.max_position_embeddings:
        raise UserError(
            f"--max_seq_length {max_seq_length} is more than the model's {bert.max_position_embeddings} positions: "
            "lower it."
        )


def check_same_records(world: World, training: Records | None, evaluation: Iterable[Records]) -> None:
    """Raises UserError where a rank would train or evaluate on other records than the first rank."""
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
    """The model with the weights to start from, or random ones; its parameters are not placed yet.

    Args:
        start: its weights are released afterwards, because a large model need not be in memory twice.
        kind, bert: what to build.
        flags: tell the seed, and whether the run trains.
        world: all ranks must build the same model.
        unused: prefixes of names of weights that no figure depends on; these may be missing.
        reinit: this many of the highest layers, and the pooler, keep their random weights where a new run starts
            (Zhang et al. 2021).

    Raises:
        UserError: there are fewer layers; without training, a weight that is used is missing; or ranks have different
            weights.
    """
    model = kind(bert, flags.seed)
    if start.weights and reinit and flags.do_train and not start.checkpoint:
        start.weights.state.update(_fresh_layers(model, reinit))
    if start.weights:
        model.load_arrays(start.weights.state, source=str(start.path), optional=("",) if flags.do_train else unused)
        start.weights.state.clear()
    if world.shape.size > 1 and not world.all_equal(model.checksum()):
        raise UserError(f"the weights to start from, {start.path}, differ between hosts: copy them again.")
    return model


def _fresh_layers(model: PretrainedModel, count: int) -> dict[str, np.ndarray]:
    """{name: initial values} of the highest layers and the pooler."""
    layers = model.config.num_hidden_layers
    if count > layers:
        raise UserError(f"--reinit_layers {count} is more than the model's {layers} layers: lower it.")
    return {
        name: to_numpy(parameter)
        for name, parameter in model.named_parameters()
        if layers - count < depth(name, layers) <= layers or name.startswith("bert.pooler.")
    }


def check_steps_left(start: Start, step: int, total_steps: int) -> None:
    """Raises UserError where the checkpoint to start from has the run's last step already; resumed runs may."""
    if not start.resumes and step >= max(total_steps, 1):
        raise UserError(
            f"{start.checkpoint} is after {step} steps already, which leaves nothing to train: give a higher "
            "--max_steps or --epochs, or --load_optimizer_state false."
        )
