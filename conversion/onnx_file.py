"""Reads BERT's parameters from ONNX files with Hugging Face's tensor names: our own, and those of exporters.

Exporters transpose the matrix of a linear layer in advance and name it `onnx::MatMul_123`. The name then
identifies neither the parameter nor the orientation, but the node that uses the matrix does: a MatMul takes [in, out],
and either its name or that of the added bias contains the module (`/bert/encoder/layer.0/attention/self/query/MatMul`).
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conversion.names import canonical, rows
from conversion.onnx_export import load_onnx
from utils.errors import UserError

FILES = ("model.onnx", "onnx/model.onnx")
_MOST_FILE_BYTES = 1 << 31  # protobuf's own limit
_MOST_DIMENSIONS, _MOST_IDENTITIES = 8, 16
_MOST_SHARING = 4  # average number of uses per byte: many names for one tensor must not fill the memory
_DECODER, _WORDS = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
_WRAPPERS = re.compile(r"^(?:(?:\d+|auto_model|transformer|base_model)\.)+")  # of sentence-transformers and others


def find(path: Path) -> Path | None:
    """The ONNX file at `path`, or in the directory."""
    if path.is_file():
        return path if path.suffix == ".onnx" else None
    return next((path / name for name in FILES if (path / name).is_file()), None)


def read(path: Path) -> dict[str, np.ndarray]:
    """The floating-point tensors, under Hugging Face's names and in its orientation.

    Raises:
        UserError: the `onnx` package is not installed, the file is damaged or quantized, or its data file is missing.
    """
    onnx = load_onnx()
    file = find(path)
    if file is None:
        raise UserError(f"{path} contains none of {', '.join(FILES)}.")
    try:
        if file.stat().st_size > _MOST_FILE_BYTES:
            raise ValueError("it is larger than 2 GiB, which protobuf cannot hold")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # protobuf's warning about unparsed bytes
            graph = onnx.load_model_from_string(file.read_bytes()).graph
        tensors = _Tensors(onnx, graph, file.parent)
        named = tensors.named()
        size = file.stat().st_size + tensors.external_bytes
        if sum(array.nbytes for array in named.values()) > _MOST_SHARING * size:
            raise ValueError("its tensors claim far more bytes than it has")
        return named
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{file} does not fit in memory.") from None
    except Exception as error:  # the exceptions differ between protobuf's implementations
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} is not a readable ONNX file ({reason:.200}): copy it again.") from None


class _Tensors:
    """The tensors of a graph, with their names and orientations from its nodes."""

    def __init__(self, onnx: Any, graph: Any, directory: Path) -> None:
        self._onnx, self._graph, self._directory = onnx, graph, directory
        self._arrays: dict[str, np.ndarray | None] = {}
        self._data_files: dict[Path, int] = {}
        self._external_claims = 0
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.HasField("t"):
                        self._stored[node.output[0]] = attribute.t
        # Exporters store equal tensors once; Identity nodes have the other names.
        self._same = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Identity" and len(node.input) == 1 and len(node.output) == 1
        }
        names = [*self._stored, *self._same, *(node.name for node in graph.node)]
        self._known = {row.name for row in rows(_layers(names))}

    @property
    def external_bytes(self) -> int:
        """The size of the data files that were read."""
        return sum(self._data_files.values())

    def named(self) -> dict[str, np.ndarray]:
        """{Hugging Face's name: array in its orientation}."""
        arrays: dict[str, np.ndarray] = {}
        done: set[str] = set()
        for name, source, transposed in self._uses():
            array = self._array(source)
            if array is not None and array.ndim == 2:
                arrays[name] = array.T if transposed else array
                done.add(source)
        for name in [*self._stored, *self._same]:
            source = self._source(name)
            plain = _WRAPPERS.sub("", name)
            if source in self._stored and source not in done and (canonical(plain) in self._known or name == source):
                array = self._array(source)
                if array is not None and (array.size > 1 or canonical(plain) in self._known):
                    arrays.setdefault(plain, array)
        if _DECODER in arrays and not any(canonical(name) == _WORDS for name in arrays):
            arrays[_WORDS] = arrays[_DECODER]  # tied, and stored under the other name
        return arrays

    def _uses(self) -> Iterator[tuple[str, str, bool]]:
        """Each matrix that a MatMul or Gemm uses: its name, the stored tensor, and whether that is [in, out]."""
        biases = self._biases()
        for node in self._graph.node:
            if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
                continue
            source = self._source(node.input[1])
            if source not in self._stored:
                continue
            kept = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            bias = node.input[2] if len(node.input) > 2 else biases.get(node.output[0] if node.output else "", "")
            modules = (
                node.input[1].removesuffix("_transposed").removesuffix(".weight"),
                node.name.strip("/").rpartition("/")[0].replace("/", "."),
                bias.removesuffix(".bias"),
            )
            names = [_WRAPPERS.sub("", f"{module}.weight") for module in modules]
            named = next((name for name in names if canonical(name) in self._known or name == _DECODER), None)
            if named:
                yield named, source, not kept

    def _biases(self) -> dict[str, str]:
        """{output of a node: the stored vector that an Add adds to it}."""
        biases = {}
        for node in self._graph.node:
            if node.op_type == "Add" and len(node.input) == 2:
                for one, other in (tuple(node.input), tuple(node.input)[::-1]):
                    if self._source(other) in self._stored:
                        biases[one] = other
        return biases

    def _source(self, name: str) -> str:
        """The stored tensor that a name refers to."""
        for _ in range(_MOST_IDENTITIES):
            if name not in self._same:
                return name
            name = self._same[name]
        raise ValueError("its Identity nodes form a cycle, or a chain that is too long")

    def _array(self, name: str) -> np.ndarray | None:
        """A stored tensor; None if it is not floating-point."""
        if name not in self._arrays:
            self._arrays[name] = self._read(name)
        return self._arrays[name]

    def _read(self, name: str) -> np.ndarray | None:
        tensor, kinds = self._stored[name], self._onnx.TensorProto
        if tensor.data_type in (kinds.INT8, kinds.UINT8) and len(tensor.dims) == 2:
            raise UserError(
                f"the weights in {self._directory} are quantized ({name:.100} contains 8-bit integers): "
                "convert the float32 model they were made from."
            )
        if tensor.data_type not in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16):
            return None
        if len(tensor.dims) > _MOST_DIMENSIONS or any(size < 0 for size in tensor.dims):
            raise ValueError(f"{name:.100} has an impossible shape")
        if tensor.data_location == kinds.EXTERNAL:
            return self._external(tensor)
        return self._onnx.numpy_helper.to_array(tensor)

    def _external(self, tensor: Any) -> np.ndarray:
        """A view of the data file, which is next to the ONNX file."""
        place = {entry.key: entry.value for entry in tensor.external_data}
        location = place.get("location", "")
        file = self._directory / location
        if Path(location).name != location or not file.is_file():
            raise UserError(
                f"{self._directory} lacks the data file {location!r:.200} that its ONNX file names: "
                "copy all of the model's files."
            )
        types = self._onnx.TensorProto
        kind = {types.FLOAT: "<f4", types.FLOAT16: "<f2", types.DOUBLE: "<f8", types.BFLOAT16: "<u2"}[tensor.data_type]
        offset, count = int(place.get("offset", 0)), math.prod(tensor.dims)
        length = count * np.dtype(kind).itemsize
        self._data_files[file] = os.path.getsize(file)
        if offset < 0 or offset + length > self._data_files[file]:
            raise ValueError(f"{location:.100} is too short for {tensor.name:.100}")
        self._external_claims += length
        if self._external_claims > _MOST_SHARING * self.external_bytes:
            raise ValueError("its tensors claim far more bytes than its data files have")
        if not count:
            return np.zeros(tuple(tensor.dims), np.float32)
        view = np.memmap(file, kind, "r", offset, tuple(tensor.dims))
        return (view.astype(np.uint32) << 16).view(np.float32) if kind == "<u2" else view


def _layers(names: list[str]) -> int:
    """The number of encoder layers in the names, capped, because a name in a file may contain any number."""
    found = (re.search(r"layer\.(\d{1,3})[./]", name) for name in names)
    return max((int(match[1]) for match in found if match), default=-1) + 1
