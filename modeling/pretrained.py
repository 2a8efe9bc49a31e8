"""Reads and writes Hugging Face model directories: `config.json`, `model.safetensors` and a tokenizer."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import oneflow as flow
from oneflow import nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from configs.model import BertConfig
from modeling.layout import to_numpy
from utils.errors import UserError
from utils.file_mode import follow_umask
from utils.messages import warn

Model = TypeVar("Model", bound="PretrainedModel")

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
TRAINING_ONLY_FILE = "training_only.safetensors"  # weights that only training needs, which no other library reads
GENERATOR_DIRECTORY = "generator"  # in a directory of modeling/electra.py: the generator as a model of its own
ENCODER = "bert."
# Hugging Face's files may contain these tensors, which are tied or computed here.
DERIVED_TENSORS = (
    "cls.predictions.decoder.bias",
    "bert.embeddings.position_ids",
    "embeddings.position_ids",
)


class PretrainedModel(nn.Module):
    """A module with a `BertConfig` that is read from and written to model directories.

    Attributes:
        unused: prefixes of the names of parameters that no output needs; a checkpoint may lack them.
        training_only: prefixes of the names of parameters that belong to a loss and not to the model; they are stored
            in a file of their own.
    """

    unused: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()

    architecture = ""  # the Hugging Face class of its directories (default: the class's own name)

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path, config: BertConfig | None = None) -> Model:
        """Reads the model in a directory.

        Args:
            directory: contains `config.json` and `model.safetensors`.
            config: replaces the directory's, for example with different dropout rates.

        Raises:
            UserError: a file is missing or damaged, or an encoder tensor is missing or has another shape. A head
                that is not in the directory is initialized randomly, with a warning.
        """
        directory = Path(directory)
        config = config or BertConfig.from_json(directory / CONFIG_FILE)
        arrays = read_weights(directory / WEIGHTS_FILE)
        _check_size(config, arrays, str(directory))
        model = cls(config)
        model.load_arrays(arrays, source=str(directory))
        return model

    def load_arrays(
        self, arrays: Mapping[str, np.ndarray], *, source: str, optional: tuple[str, ...] = ("",)
    ) -> list[str]:
        """Copies arrays into the parameters of the same names.

        Args:
            arrays: {Hugging Face parameter name: array}; tensors that this model does not have are ignored.
            source: the origin of the arrays, for messages.
            optional: prefixes of the names of head parameters that may be missing (default: all).

        Returns:
            The parameters of heads that are not among the arrays and keep their initial values. Those that no output
            needs (`unused`) do not count.

        Raises:
            UserError: a tensor's shape is not the model's, or an encoder tensor or a needed head is missing.
        """
        parameters = dict(self.named_parameters())
        stored = Path(source) / TRAINING_ONLY_FILE
        if self.training_only and stored.is_file():
            arrays = {**arrays, **_fitting(read_weights(stored), parameters)}
        if not any(
            name.startswith(ENCODER) for name in parameters
        ):  # a bare encoder can load a whole model's parameters
            arrays = {name.removeprefix(ENCODER): array for name, array in arrays.items()}
        fresh = sorted(name for name in set(parameters) - set(arrays) if not name.startswith(self.unused))
        # The pooler may be missing: Hugging Face's question-answering and masked-LM models have none.
        encoder = [n for n in fresh if n.removeprefix(ENCODER).startswith(("embeddings.", "encoder."))]
        if encoder:
            raise UserError(
                f"{source} lacks {len(encoder)} encoder tensors, first {encoder[0]}: check that it contains a BERT "
                "encoder and that its config.json describes these weights."
            )
        needed = [name for name in fresh if not name.startswith(optional)]
        if needed:
            raise untrained_head(source, needed[0].rsplit(".", 1)[0])
        for name in sorted(set(parameters) & set(arrays)):
            if tuple(parameters[name].shape) != arrays[name].shape:
                raise UserError(
                    f"{source}: {name} has shape {list(arrays[name].shape)}, but the model's configuration needs "
                    f"{list(parameters[name].shape)}."
                )
            if not np.issubdtype(arrays[name].dtype, np.floating):
                raise UserError(f"{source}: {name} has dtype {arrays[name].dtype}, not a floating-point type.")
        for name in set(parameters) & set(arrays):
            array = np.ascontiguousarray(arrays[name], dtype=np.float32)
            parameters[name].data.copy_(flow.from_numpy(array))
        if fresh:
            heads = ", ".join(sorted({name.rsplit(".", 1)[0] for name in fresh}))
            warn(f"{source} contains no {heads}: it is initialized randomly.")
        return fresh

    def to_arrays(self) -> dict[str, np.ndarray]:
        """{parameter name: a copy of its values}; every rank gets complete tensors."""
        return {name: to_numpy(parameter) for name, parameter in self.own_parameters()}

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The named parameters of this model, without those of another model that it learns from."""
        yield from self.named_parameters()

    def checksum(self) -> int:
        """The CRC-32 of all parameters, which must be local tensors."""
        checksum = 0
        for parameter in self.parameters():
            checksum = zlib.crc32(parameter.detach().numpy().tobytes(), checksum)
        return checksum

    def checkpoint_activations(self) -> None:
        """Makes the encoder's layers keep only their inputs in training and recompute the rest in the backward pass.

        Saves memory and costs time; losses and gradients stay the same (Chen et al. 2016). Only works in eager mode.
        """
        for module in self.modules():
            if hasattr(module, "checkpoints_activations"):
                module.checkpoints_activations = True

    def save_pretrained(
        self,
        directory: str | Path,
        arrays: dict[str, np.ndarray] | None = None,
        tokenizer: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes the model directory.

        Args:
            directory: created if it does not exist.
            arrays: the parameters (default: `to_arrays()`).
            tokenizer: {name: content} of the tokenizer's files, such as vocab.txt.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = self.config.to_huggingface(self.architecture or type(self).__name__)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        arrays = self.to_arrays() if arrays is None else arrays
        apart = {name: array for name, array in arrays.items() if name.startswith(self.training_only)}
        write_weights(directory / WEIGHTS_FILE, {name: each for name, each in arrays.items() if name not in apart})
        if apart:
            write_weights(directory / TRAINING_ONLY_FILE, apart)
        for name, content in (tokenizer or {}).items():
            (directory / name).write_bytes(content)


def _fitting(arrays: Mapping[str, np.ndarray], parameters: Mapping[str, nn.Parameter]) -> dict[str, np.ndarray]:
    """The arrays of these parameters that have their shape; those of another loss may differ."""
    return {
        name: array
        for name, array in arrays.items()
        if name in parameters and tuple(parameters[name].shape) == array.shape
    }


def untrained_head(source: str, head: str) -> UserError:
    """The error for weights without the head that a task needs."""
    return UserError(
        f"{source} has no {head}, so it was not trained for this task: fine-tune it first, or name a fine-tuned model."
    )


def write_weights(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file that Hugging Face transformers reads; raises OSError if the disk is full."""
    try:
        save_file(arrays, str(path), metadata={"format": "pt"})
        follow_umask(path)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file: {name: array}.

    Raises:
        UserError: it is missing, cannot be read, or is truncated or damaged.
    """
    try:
        with path.open("rb"):  # safetensors reports an unreadable file as missing
            arrays = load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: pass a model directory that contains {WEIGHTS_FILE}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}): copy it again.") from None
    return {name: array for name, array in arrays.items() if name not in DERIVED_TENSORS}


def _check_size(config: BertConfig, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raises UserError if a configuration describes a larger model than the arrays, before memory is allocated."""
    held = sum(array.size for array in arrays.values())
    claimed = config.hidden_size * (config.vocab_size + config.type_vocab_size)
    claimed += config.num_hidden_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
    if claimed > held + (1 << 24):  # heads that the arrays lack are smaller
        raise UserError(
            f"{source}: {CONFIG_FILE} describes {claimed:,} weights, but {WEIGHTS_FILE} has {held:,}: copy both again."
        )
