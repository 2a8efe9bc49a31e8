"""Model directories: `config.json` + `model.safetensors` (+ `vocab.txt`), as Hugging Face transformers reads them."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
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
from utils.messages import warn

Model = TypeVar("Model", bound="PretrainedModel")

CONFIG_FILE, WEIGHTS_FILE, VOCAB_FILE, TOKENIZER_FILE = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer_config.json",
)
# The files that `save_pretrained` writes.
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, VOCAB_FILE, TOKENIZER_FILE)
ENCODER = "bert."
# Hugging Face's files may hold these; here they are another tensor, or computed.
DERIVED_TENSORS = (
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "bert.embeddings.position_ids",
    "embeddings.position_ids",
)


class PretrainedModel(nn.Module):
    """A module with a `BertConfig` that is read from and written to model directories."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path, config: BertConfig | None = None) -> Model:
        """Reads the model in a directory.

        Args:
            directory: holds `config.json` and `model.safetensors`.
            config: replaces the directory's, for example with other dropout rates.

        Raises:
            UserError: a file is missing or damaged, or an encoder tensor is missing or has another shape. A head that
                the directory does not hold is initialized, with a warning.
        """
        directory = Path(directory)
        model = cls(config or BertConfig.from_json(directory / CONFIG_FILE))
        model.load_arrays(read_weights(directory / WEIGHTS_FILE), source=str(directory))
        return model

    def load_arrays(self, arrays: Mapping[str, np.ndarray], *, source: str) -> list[str]:
        """Copies arrays into the parameters of the same names.

        Args:
            arrays: {Hugging Face parameter name: array}; tensors that this model does not have are ignored.
            source: where they come from, for messages.

        Returns:
            The parameters of heads that are not among the arrays and keep their initial values.

        Raises:
            UserError: a tensor's shape is not the model's, or an encoder tensor is missing.
        """
        parameters = dict(self.named_parameters())
        if not any(name.startswith(ENCODER) for name in parameters):  # a bare encoder takes a whole model's
            arrays = {name.removeprefix(ENCODER): array for name, array in arrays.items()}
        fresh = sorted(set(parameters) - set(arrays))
        # The pooler may be missing: Hugging Face's models for questions and for masked words have none.
        encoder = [n for n in fresh if n.removeprefix(ENCODER).startswith(("embeddings.", "encoder."))]
        if encoder:
            raise UserError(
                f"{source} lacks {len(encoder)} encoder tensors, first {encoder[0]}: check that it contains a BERT "
                "encoder and that its config.json describes these weights."
            )
        for name in sorted(set(parameters) & set(arrays)):
            if tuple(parameters[name].shape) != arrays[name].shape:
                raise UserError(
                    f"{source}: {name} has shape {list(arrays[name].shape)}, but the model's configuration needs "
                    f"{list(parameters[name].shape)}."
                )
        for name in set(parameters) & set(arrays):
            array = np.ascontiguousarray(arrays[name], dtype=np.float32)
            parameters[name].data.copy_(flow.from_numpy(array))
        if fresh:
            heads = ", ".join(sorted({name.rsplit(".", 1)[0] for name in fresh}))
            warn(f"{source} holds no {heads}: it is initialized at random.")
        return fresh

    def to_arrays(self) -> dict[str, np.ndarray]:
        """{parameter name: a copy of its values}; every rank gets whole tensors."""
        return {name: to_numpy(parameter) for name, parameter in self.named_parameters()}

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
        *,
        vocab: bytes | None = None,
        do_lower_case: bool = True,
    ) -> None:
        """Writes the model directory, with `vocab.txt` if its content is given; `arrays` default to `to_arrays()`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = self.config.to_huggingface(type(self).__name__)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_weights(directory / WEIGHTS_FILE, self.to_arrays() if arrays is None else arrays)
        if vocab is not None:
            (directory / VOCAB_FILE).write_bytes(vocab)
            tokenizer = {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": do_lower_case,
                "model_max_length": self.config.max_position_embeddings,
            }
            (directory / TOKENIZER_FILE).write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")


def write_weights(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file that Hugging Face transformers reads; raises OSError if the disk is full."""
    try:
        save_file(arrays, str(path), metadata={"format": "pt"})
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file; raises UserError for a missing, truncated or damaged one."""
    try:
        arrays = load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a model directory that holds {WEIGHTS_FILE}.") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}): copy it again.") from None
    return {name: array for name, array in arrays.items() if name not in DERIVED_TENSORS}
