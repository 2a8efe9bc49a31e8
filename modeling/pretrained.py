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

from configs.cli import warn
from configs.model import BertConfig
from modeling.layout import to_numpy
from utils.errors import UserError

Model = TypeVar("Model", bound="PretrainedModel")

CONFIG_FILE, WEIGHTS_FILE, VOCAB_FILE, TOKENIZER_FILE = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer_config.json",
)
ENCODER = "bert."
# Tensors in Hugging Face's files that are tied to others or computed here.
DERIVED_TENSORS = (
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "bert.embeddings.position_ids",
    "embeddings.position_ids",
)


class PretrainedModel(nn.Module):
    """A module with a `BertConfig` that loads from and saves to model directories."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path, config: BertConfig | None = None) -> Model:
        """Load a model from a directory. A head without weights there is initialized randomly, with a warning.

        Args:
            directory: contains `config.json` and `model.safetensors`.
            config: replaces the directory's configuration, for example to change dropout rates.

        Raises:
            UserError: a file is missing or damaged, a tensor has the wrong shape, or an encoder tensor is missing.
        """
        directory = Path(directory)
        model = cls(config or BertConfig.from_json(directory / CONFIG_FILE))
        model.load_arrays(read_weights(directory / WEIGHTS_FILE), source=str(directory))
        return model

    def load_arrays(self, arrays: Mapping[str, np.ndarray], *, source: str) -> list[str]:
        """Copy arrays into the parameters of the same names.

        Args:
            arrays: {Hugging Face parameter name: array}. Arrays without a parameter of that name are ignored.
            source: where the arrays come from, for messages.

        Returns:
            The parameters without an array, which keep their random initial values. All of them belong to heads.

        Raises:
            UserError: an array has the wrong shape, or an encoder tensor is missing.
        """
        parameters = dict(self.named_parameters())
        if not any(name.startswith(ENCODER) for name in parameters):  # an encoder without heads
            arrays = {name.removeprefix(ENCODER): array for name, array in arrays.items()}
        fresh = sorted(set(parameters) - set(arrays))
        # The pooler may be missing: Hugging Face's question-answering and masked-LM models have none.
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
            warn(f"{source} has no weights for {heads}: initialized randomly.")
        return fresh

    def to_arrays(self) -> dict[str, np.ndarray]:
        """{parameter name: copy of its values}, full tensors on every rank."""
        return {name: to_numpy(parameter) for name, parameter in self.named_parameters()}

    def checksum(self) -> int:
        """CRC-32 of all parameters, which must be local."""
        checksum = 0
        for parameter in self.parameters():
            checksum = zlib.crc32(parameter.detach().numpy().tobytes(), checksum)
        return checksum

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing (Chen et al. 2016) for eager training.

        Each encoder layer then stores only its inputs, and the backward pass recomputes it. This saves memory and costs
        time; losses and gradients stay the same.
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
        """Write a model directory.

        Args:
            directory: created if missing.
            arrays: the weights (default: `to_arrays()`).
            vocab: the content of `vocab.txt`; without it, neither `vocab.txt` nor the tokenizer's settings are written.
            do_lower_case: whether the tokenizer lower-cases text.
        """
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
    """Write a safetensors file that Hugging Face transformers can read; raises OSError if the disk is full."""
    try:
        save_file(arrays, str(path), metadata={"format": "pt"})
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file; raises UserError if the file is missing, truncated or damaged."""
    try:
        arrays = load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a model directory that contains {WEIGHTS_FILE}.") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error}): copy it again.") from None
    return {name: array for name, array in arrays.items() if name not in DERIVED_TENSORS}
