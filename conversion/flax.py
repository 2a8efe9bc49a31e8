"""Reads BERT from msgpack checkpoints of Flax, without Flax and without unpickling.

Two parameter trees are supported: Hugging Face's (`flax_model.msgpack`, and training states that contain such a tree)
and FlaxBERT's (`checkpoint_STEP`, https://github.com/nikitakit/flax_bert), whose attention kernels have a head axis.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError

FILE = "flax_model.msgpack"
_STEP = re.compile(r"checkpoint_(\d{1,18})")
_MOST_VALUES, _MOST_DEPTH, _MOST_DIMENSIONS = 1_000_000, 32, 8  # BERT-large with its optimizer has about 5,000 values
_WRAPPERS = ("target", "params", "model")  # an optimizer's or a training state's entry for the parameters
_FLOATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "bfloat16": "<u2"}
_CHUNKED = "__msgpack_chunked_array__"  # how Flax stores an array that msgpack cannot: in pieces

# FlaxBERT's module, as a regular expression -> Hugging Face's.
_FLAXBERT = (
    (r"bert/word_embeddings", "bert.embeddings.word_embeddings"),
    (r"bert/type_embeddings", "bert.embeddings.token_type_embeddings"),
    (r"bert/position_embeddings", "bert.embeddings.position_embeddings"),
    (r"bert/embeddings_layer_norm", "bert.embeddings.LayerNorm"),
    (r"bert/encoder_layer_(\d+)/self_attention/attn/(query|key|value)", r"bert.encoder.layer.\1.attention.self.\2"),
    (r"bert/encoder_layer_(\d+)/self_attention/attn/output", r"bert.encoder.layer.\1.attention.output.dense"),
    (r"bert/encoder_layer_(\d+)/self_attention_layer_norm", r"bert.encoder.layer.\1.attention.output.LayerNorm"),
    (r"bert/encoder_layer_(\d+)/feed_forward/intermediate", r"bert.encoder.layer.\1.intermediate.dense"),
    (r"bert/encoder_layer_(\d+)/feed_forward/output", r"bert.encoder.layer.\1.output.dense"),
    (r"bert/encoder_layer_(\d+)/output_layer_norm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"bert/pooler", "bert.pooler.dense"),
    (r"predictions_transform_dense", "cls.predictions.transform.dense"),
    (r"predictions_transform_layernorm", "cls.predictions.transform.LayerNorm"),
    (r"predictions_output", "cls.predictions"),
)


def find(path: Path) -> Path | None:
    """The msgpack file at `path`, or the newest one in the directory."""
    if path.is_file():
        return path if path.suffix == ".msgpack" or _STEP.fullmatch(path.name) else None
    if (path / FILE).is_file():
        return path / FILE
    steps = {int(match[1]): file for file in path.glob("checkpoint_*") if (match := _STEP.fullmatch(file.name))}
    return next((steps[step] for step in sorted(steps, reverse=True) if steps[step].is_file()), None)


def read(path: Path) -> dict[str, np.ndarray]:
    """The floating-point tensors, under Hugging Face's names and in its orientation.

    Raises:
        UserError: the file is damaged, or is not a msgpack file with a parameter tree.
    """
    file = find(path)
    if file is None:
        raise UserError(f"{path} contains neither {FILE} nor checkpoint_STEP.")
    try:
        with file.open("rb") as stream:
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        tree = _Reader(content).whole()
        while wrapper := next((name for name in _WRAPPERS if isinstance(tree.get(name), dict)), None):
            tree = tree[wrapper]
        arrays = dict(_leaves(tree))
        flaxbert = any(name.startswith("bert/encoder_layer_") for name in arrays)
        return dict((_from_flaxbert if flaxbert else _from_huggingface)(name, arrays) for name in arrays)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, struct.error) as error:
        raise UserError(f"{file} is not a complete Flax checkpoint ({error}): copy it again.") from None


def _from_huggingface(name: str, arrays: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """Maps Hugging Face's Flax names: modules as in PyTorch, other parameter names, kernels transposed."""
    module, _, leaf = name.replace("/", ".").rpartition(".")
    leaf = {"kernel": "weight", "embedding": "weight", "scale": "weight"}.get(leaf, leaf)
    array = arrays[name]
    return f"{module}.{leaf}".removeprefix("."), array.T if name.endswith("kernel") else array


def _from_flaxbert(name: str, arrays: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """Maps FlaxBERT's names; attention kernels are [N, H, D], output kernels [N, D, H] with biases to be summed."""
    module, _, leaf = name.rpartition("/")
    array = arrays[name]
    if module == "classification":  # [C, H], as in PyTorch
        head = "cls.seq_relationship" if "predictions_output/bias" in arrays else "classifier"
        return f"{head}.{'bias' if leaf == 'bias' else 'weight'}", array
    known = (re.sub(pattern, found, module) for pattern, found in _FLAXBERT if re.fullmatch(pattern, module))
    target = next(known, module.replace("/", "."))
    if "/attn/output" in module:
        array = array.reshape(-1, array.shape[-1]) if leaf == "kernel" else array.sum(axis=0, dtype=array.dtype)
    elif "/attn/" in module:
        array = array.swapaxes(0, 1).reshape(array.shape[1], -1) if leaf == "kernel" else array.reshape(-1)
    return f"{target}.{'bias' if leaf == 'bias' else 'weight'}", array.T if leaf == "kernel" else array


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of each floating-point array of a tree."""
    for name, value in tree.items():
        if isinstance(value, dict) and _CHUNKED in value:
            pieces = [_array(value["chunks"][str(i)]) for i in range(len(value["chunks"]))]
            shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
            if all(piece is not None for piece in pieces):
                yield prefix + name, np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(shape)  # type: ignore[union-attr]
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}/")
        elif isinstance(value, _Extension) and (array := _array(value)) is not None:
            yield prefix + name, array


class _Extension(NamedTuple):
    """A value of a Flax extension type; type 1 is an array."""

    kind: int
    content: memoryview


def _array(value: Any) -> np.ndarray | None:
    """A view of an array's bytes; None if it is not floating-point."""
    if not isinstance(value, _Extension) or value.kind != 1:
        return None
    shape, kind, data = _Reader(value.content).whole(list)
    if kind not in _FLOATS:
        return None
    dtype = np.dtype(_FLOATS[kind])
    if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array has an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "bfloat16" else array


class _Reader:
    """Reads msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md); binary values are views, not copies."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at, self._values = content, 0, 0

    def whole(self, kind: type = dict) -> Any:
        """The single value in the content; raises ValueError if it is not of that kind."""
        value = self._value(0)
        if not isinstance(value, kind) or self._at != len(self._content):
            raise ValueError("it is not a parameter tree")
        return value

    def _value(self, depth: int) -> Any:
        self._values += 1
        if depth > _MOST_DEPTH or self._values > _MOST_VALUES:
            raise ValueError("it is nested too deeply or has too many values")
        code = self._number("B")
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0x90:
            return self._map(code & 0x0F, depth)
        if code < 0xA0:
            return self._list(code & 0x0F, depth)
        if code < 0xC0:
            return str(self._bytes(code & 0x1F), "utf-8")
        if code in _SIMPLE:
            return _SIMPLE[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code in _SIZED:
            kind, size = _SIZED[code]
            length = size if isinstance(size, int) else self._number(size)
            if kind == "ext":
                return _Extension(self._number("b"), self._bytes(length))
            if kind in ("bin", "str"):
                return self._bytes(length) if kind == "bin" else str(self._bytes(length), "utf-8")
            return self._map(length, depth) if kind == "map" else self._list(length, depth)
        raise ValueError(f"byte {code:#x} does not begin a value")

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        values = {}
        for _ in range(length):
            key = self._value(_MOST_DEPTH)
            if not isinstance(key, str):
                raise ValueError("a key is not text")
            values[key] = self._value(depth + 1)
        return values

    def _list(self, length: int, depth: int) -> list[Any]:
        return [self._value(depth + 1) for _ in range(length)]

    def _number(self, layout: str) -> Any:
        (number,) = struct.unpack(f">{layout}", self._bytes(struct.calcsize(layout)))
        return number

    def _bytes(self, length: int) -> memoryview:
        start, self._at = self._at, self._at + length
        if self._at > len(self._content):
            raise ValueError("it is truncated")
        return self._content[start : self._at]


_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip([0xCA, 0xCB, *range(0xCC, 0xD4)], "fdBHIQbhiq", strict=True))
_SIZED: dict[int, tuple[str, int | str]] = {
    **{0xC4 + i: ("bin", size) for i, size in enumerate("BHI")},
    **{0xC7 + i: ("ext", size) for i, size in enumerate("BHI")},
    **{0xD4 + i: ("ext", 1 << i) for i in range(5)},
    **{0xD9 + i: ("str", size) for i, size in enumerate("BHI")},
    **{0xDC + i: ("list", size) for i, size in enumerate("HI")},
    **{0xDE + i: ("map", size) for i, size in enumerate("HI")},
}
