"""Runs a model over examples of different lengths, in few batch shapes.

In graph mode, every batch shape is compiled once. Therefore lengths are rounded up to a few values, and batches are
padded to the full number of rows (or to one, for a single example). Eager mode pads to the longest row of the batch; on
a CPU with our kernels, the encoder runs on packed weights (packed.py) and computes no padding, unless the model is a
variant that packed weights do not support.

Shapes: `B` rows of a batch, `S` sequence, `P` masked positions.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import oneflow as flow
from oneflow import nn

import kernels
from inference.packed import can_pack, pack
from kernels.encoder import Precision
from modeling.precision import half_precision, stored
from modeling.pretrained import PretrainedModel

Mode = Literal["graph", "eager"]
Outputs = dict[str, np.ndarray]

# Larger batches are not faster. On a CPU, every compiled shape also keeps its own memory for each operation.
_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
POSITIONS_PER_EXAMPLE = 8  # examples have 1 masked position, or are padded to this many
_OUTPUTS_PER_TOKEN = ("sequence_output", "start_logits", "end_logits")


@dataclass(frozen=True)
class Example:
    """One row for the model: `input_ids` and `segment_ids` [S] without padding, and the masked positions, if any."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    masked_lm_positions: np.ndarray | None = None  # [P], P at most POSITIONS_PER_EXAMPLE

    @property
    def num_positions(self) -> int:
        """P in the batch: few different values, so that there are few shapes."""
        if self.masked_lm_positions is None:
            return 0
        return 1 if len(self.masked_lm_positions) == 1 else POSITIONS_PER_EXAMPLE


class Runner:
    """A model in evaluation mode and its compiled graphs.

    Args:
        model: any model of `modeling`.
        mode: "graph" or "eager".
        device: "cpu", "cuda" or "cuda:I".
        batch_size: the largest number of rows in a batch.
        max_batch_tokens: the largest number of tokens in a batch, padding included (default: what the device computes
            fastest).
        precision: the precision of matrix products. "fp16" needs CUDA, "bf16" and "int8" need eager mode and the CPU
            kernels.
        kept: with int8, the encoder's products to keep in higher precision.
    """

    def __init__(
        self,
        model: PretrainedModel,
        mode: Mode,
        device: str,
        batch_size: int,
        max_batch_tokens: int | None = None,
        precision: Precision | Literal["fp16"] = "fp32",
        kept: tuple[str, ...] = (),
    ) -> None:
        self.model = model.to(device).eval()
        self.mode, self.device, self.batch_size = mode, device, batch_size
        self.most_tokens = max_batch_tokens or _TOKENS_PER_BATCH[device.split(":")[0]]
        longest = model.config.max_position_embeddings
        self.lengths = [length for length in _LENGTHS if length < longest] + [longest]
        self.graphs: dict[tuple, nn.Graph] = {}
        self.precision = precision
        self.packed = mode == "eager" and device == "cpu" and kernels.is_loaded() and can_pack(model.config)
        if self.packed:
            assert precision != "fp16"
            pack(self.model, precision, kept)
        if device == "cpu":
            weakref.finalize(self, kernels.hold_weights(self.model.parameters()))

    @property
    def most_graphs(self) -> int:
        """The largest number of graphs that are compiled for one set of outputs."""
        return len(self.lengths) * len({1, self.batch_size}) * len({1, POSITIONS_PER_EXAMPLE})

    def run(self, examples: Sequence[Example], names: Sequence[str]) -> Iterator[tuple[int, Outputs]]:
        """Yields (index, outputs of that example) for every example, in the order that needs the least padding.

        Args:
            examples: rows of any length up to the model's maximum.
            names: the model outputs to return, each without the batch axis and without padding.
        """
        kinds: dict[tuple[int, int], list[int]] = {}
        for index in sorted(range(len(examples)), key=lambda i: -len(examples[i].input_ids)):
            kinds.setdefault(self.kind(examples[index]), []).append(index)
        for indices in kinds.values():  # longest first, so that running out of memory shows immediately
            while indices:
                rows = self.rows([len(examples[index].input_ids) for index in indices[: self.batch_size]])
                chosen, indices = indices[:rows], indices[rows:]
                padded_rows = rows if self.mode == "graph" and len(examples) > 1 else len(chosen)
                outputs = self._forward([examples[i] for i in chosen], padded_rows, tuple(names))
                for row, index in enumerate(chosen):
                    yield index, self._row(outputs, row, examples[index])

    def _forward(self, examples: Sequence[Example], rows: int, names: tuple[str, ...]) -> Outputs:
        batch = self._batch(examples, rows)
        tensors = {name: flow.from_numpy(array).to(self.device) for name, array in batch.items()}
        if self.mode == "eager":
            if self.precision != "fp32":
                kernels.set_bf16(True)  # for the products of the heads
            try:
                with flow.no_grad(), half_precision(self.precision == "fp16"):
                    results = self.model(**tensors)
                return {name: stored(results[name]).numpy() for name in names}
            finally:
                kernels.set_bf16(False)
        shape = (names, *(array.shape for array in batch.values()))
        if shape not in self.graphs:
            self.graphs[shape] = _Graph(self.model, names, self.precision == "fp16")
        return {name: value.numpy() for name, value in self.graphs[shape](**tensors).items()}

    def kind(self, example: Example) -> tuple[int, int]:
        """The properties that all examples of a batch share: P, and in graph mode the rounded length."""
        return example.num_positions, self._length(len(example.input_ids)) if self.mode == "graph" else 0

    def _length(self, longest: int) -> int:
        """The length that a batch is padded to if `longest` is its longest row."""
        return longest if self.mode == "eager" else next(length for length in self.lengths if length >= longest)

    def rows(self, lengths: Sequence[int]) -> int:
        """The number of rows in a batch, if the next rows have these lengths, the longest first."""
        if self.packed:
            return max(1, int(np.searchsorted(np.cumsum(lengths), self.most_tokens, side="right")))
        return max(1, min(self.batch_size, self.most_tokens // self._length(lengths[0])))

    def _batch(self, examples: Sequence[Example], rows: int) -> dict[str, np.ndarray]:
        longest = self._length(max(len(example.input_ids) for example in examples))
        input_ids, input_mask, segment_ids = np.zeros((3, rows, longest), np.int32)  # [B, S]
        input_mask[:, 0] = 1  # a padding row must attend to something, or its softmax is NaN
        positions = np.zeros((rows, examples[0].num_positions), np.int32)  # [B, P]
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            input_ids[row, :length] = example.input_ids
            input_mask[row, :length] = 1
            segment_ids[row, :length] = example.segment_ids
            if example.masked_lm_positions is not None:
                positions[row, : len(example.masked_lm_positions)] = example.masked_lm_positions
        batch = {"input_ids": input_ids, "input_mask": input_mask, "segment_ids": segment_ids}
        return batch | ({"masked_lm_positions": positions} if positions.size else {})

    def _row(self, outputs: Outputs, row: int, example: Example) -> Outputs:
        length = len(example.input_ids)
        return {
            name: array[row, :length] if name in _OUTPUTS_PER_TOKEN else array[row] for name, array in outputs.items()
        }


class _Graph(nn.Graph):
    def __init__(self, model: nn.Module, names: tuple[str, ...], use_fp16: bool) -> None:
        super().__init__()
        self.model, self.names = model, names
        if use_fp16:
            self.config.enable_amp(True)

    def build(self, **batch: flow.Tensor) -> dict[str, flow.Tensor]:
        outputs = self.model(**batch)
        return {name: outputs[name] for name in self.names}
