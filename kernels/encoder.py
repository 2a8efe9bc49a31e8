"""BERT's encoder for inference, implemented in kernels/src/encoder.cpp."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kernels import plugin

Precision = Literal["fp32", "bf16", "int8"]

_NUMBERS = {"fp32": 0, "bf16": 1, "int8": 2}  # as in kernels/src/packed_linear.h
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # as in kernels/src/encoder_rows.h
# Parameters by their names in the model, in the order of the structures in kernels/src/encoder.cpp.
_TABLES = ("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings")
_PAIRS = ("embeddings.LayerNorm", "encoder.LayerNorm", "pooler.dense")
_LAYER_PAIRS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "intermediate.gate",
    "output.dense",
    "output.LayerNorm",
)
_ANGLES = tuple(f"encoder.{name}.{part}" for name in ("rotary", "local_rotary") for part in ("cosines", "sines"))
# A layer's matrix products; queries, keys and values are one product.
LINEARS = ("attention.self", "attention.output", "intermediate", "output")


@dataclass(frozen=True)
class EncoderShape:
    """A BERT encoder's shape and variant.

    Attributes:
        epsilon: the LayerNorms'.
        rms_norm: whether they are RMSNorms.
        gated: whether a layer's feed-forward network has a gate.
        activation: "gelu", "gelu_tanh", "relu" or "silu".
        reach: how far the tokens of each layer see to both sides, -1 without a limit; (): no layer has a limit.
        slopes: ALiBi's, of each head; (): none.
        position_offset: the row of the position table that the first token has.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    segments: int
    pre_norm: bool
    epsilon: float
    rms_norm: bool = False
    gated: bool = False
    activation: str = "gelu"
    reach: tuple[int, ...] = ()
    slopes: tuple[float, ...] = ()
    position_offset: int = 0


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in list(EncoderShape.__annotations__)[:8]),
        *((name, ctypes.c_int64) for name in ("rms_norm", "gated", "activation")),
        ("epsilon", ctypes.c_float),
    ]

    @classmethod
    def of(cls, shape: EncoderShape) -> _Shape:
        values = {name: getattr(shape, name) for name, *_ in cls._fields_}
        return cls(**{**values, "activation": _ACTIVATIONS.index(shape.activation)})


class PackedEncoder:
    """An encoder whose weights are converted and packed once.

    Args:
        shape: the encoder's shape.
        parameters: float32 arrays by their names in `modeling.bert.BertModel`, rotary angles included; variants lack
            some. The embeddings and the angles are not copied.
        precision: the precision of the matrix products. In int8, weights have one scale per output and activations one
            scale per token, computed at run time; other operations use `low`.
        low: the precision of activations and of `kept` products, "fp32" or "bf16".
        kept: with int8, the products to compute in `low`: "output" for all layers, "3.output" for one.

    The kernels must be loaded.
    """

    def __init__(
        self,
        shape: EncoderShape,
        parameters: Mapping[str, np.ndarray],
        precision: Precision,
        low: Literal["fp32", "bf16"],
        kept: tuple[str, ...] = (),
    ) -> None:
        self._shape, self._parameters = shape, dict(parameters)
        self._lock = threading.Lock()  # the encoder has one buffer for activations
        self._library = _library()
        precisions = np.array(
            [
                _NUMBERS[low if precision != "int8" or linear in kept or f"{layer}.{linear}" in kept else "int8"]
                for layer in range(shape.layers)
                for linear in LINEARS
            ],
            np.int64,
        )
        self._reach = np.array(shape.reach or [-1] * shape.layers, np.int64)
        self._slopes = np.array(shape.slopes, np.float32) if shape.slopes else None
        positions = (ctypes.c_void_p * 6)(
            self._reach.ctypes.data,
            *self._addresses(_ANGLES),
            None if self._slopes is None else self._slopes.ctypes.data,
        )
        prefixes = [f"encoder.layer.{layer}.{name}" for layer in range(shape.layers) for name in _LAYER_PAIRS]
        model = self._addresses([f"{name}.weight" for name in _TABLES] + _weights_and_biases(_PAIRS))
        self._handle = ctypes.c_void_p(
            self._library.kernels_encoder_create(
                ctypes.byref(_Shape.of(shape)),
                model,
                positions,
                self._addresses(_weights_and_biases(prefixes)),
                precisions.ctypes.data,
                int(low == "bf16"),
            )
        )
        weakref.finalize(self, self._library.kernels_encoder_destroy, self._handle)

    def is_current(self) -> bool:
        """Whether the packed parameters are unchanged. Only a few numbers of each are compared, so an optimizer step or
        loaded weights are detected, but a change of single numbers may be missed."""
        plugin.wait_for_kernels()  # pending kernels may still write to them
        return bool(self._library.kernels_encoder_is_current(self._handle))

    def run(self, input_ids: np.ndarray, segment_ids: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Encode a batch.

        Args:
            input_ids, segment_ids: int32 [B, S].
            keep: bool [B, S], True for tokens and False for padding, which is not computed.

        Returns:
            sequence_output, float32 [B, S, H], 0 at padding.
        """
        batch, length = input_ids.shape
        positions = np.arange(length) + self._shape.position_offset
        rows = np.flatnonzero(keep).astype(np.int64)  # [T]
        output = np.zeros((batch, length, self._shape.hidden), np.float32)
        if not rows.size:
            return output
        lengths = keep.sum(1, dtype=np.int64)
        begins = np.concatenate([[0], np.cumsum(lengths[lengths > 0])])
        tokens = [
            np.ascontiguousarray(array.ravel()[rows], np.int32)
            for array in (input_ids, segment_ids, np.broadcast_to(positions, keep.shape))
        ]
        with self._lock:
            self._library.kernels_encoder_run(
                self._handle,
                *(array.ctypes.data for array in tokens),
                begins.ctypes.data,
                len(begins) - 1,
                rows.ctypes.data,
                output.ctypes.data,
            )
        return output

    def pool(self, first: np.ndarray) -> np.ndarray:
        """The pooled output, float32 [B, H], of the first tokens' vectors [B, H]."""
        first, pooled = np.ascontiguousarray(first, np.float32), np.empty(first.shape, np.float32)
        with self._lock:
            self._library.kernels_encoder_pool(self._handle, first.ctypes.data, len(first), pooled.ctypes.data)
        return pooled

    def _addresses(self, names: Sequence[str]) -> ctypes.Array:
        """The addresses of these parameters; null for those that the model does not have."""
        arrays = [self._parameters.get(name) for name in names]
        return (ctypes.c_void_p * len(names))(*(None if array is None else array.ctypes.data for array in arrays))


def _weights_and_biases(names: tuple[str, ...] | list[str]) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def _library() -> ctypes.CDLL:
    library = plugin.library()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.kernels_encoder_create.restype = pointer
    library.kernels_encoder_create.argtypes = [*[pointer] * 5, ctypes.c_int]
    library.kernels_encoder_destroy.argtypes = library.kernels_encoder_is_current.argtypes = [pointer]
    library.kernels_encoder_run.argtypes = [*[pointer] * 5, number, pointer, pointer]
    library.kernels_encoder_pool.argtypes = [pointer, pointer, number, pointer]
    return library
