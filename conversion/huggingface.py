"""Hugging Face model directories: safetensors (sharded too) or `pytorch_model.bin`, and our own, which are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from conversion.torch_pickle import read_torch_file
from utils.errors import UserError

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MOST_INDEX_BYTES = 64 << 20


def find(path: Path) -> Path | None:
    """The file that holds (or lists) the weights, if `path` is of this format."""
    if path.is_file():
        return path if path.suffix in (".safetensors", ".bin") or path.name in FILES else None
    return next((path / name for name in FILES if (path / name).is_file()), None)


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors by the names in the files; half precision is widened to float32."""
    file = find(path)
    if file is None:
        raise UserError(f"{path} holds none of {', '.join(FILES)}.")
    if not file.name.endswith(".index.json"):
        return _read_file(file)
    tensors: dict[str, np.ndarray] = {}
    for shard in _shards(file):
        tensors.update(_read_file(shard))
    return tensors


def write(state: dict[str, np.ndarray], directory: Path) -> None:
    """One `model.safetensors`, marked as transformers wants it."""
    save_file(state, directory / FILES[0], metadata={"format": "pt"})


def _shards(index: Path) -> list[Path]:
    try:
        if index.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError("too large")
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("weight_map must name files beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of shards ({error}): copy it again.") from None
    shards = [index.parent / name for name in sorted(names)]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{shard} is missing, which {index.name} names: copy all of the model's files.")
    return shards


def _read_file(file: Path) -> dict[str, np.ndarray]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file, framework="np") as content:
            if any(content.get_slice(name).get_dtype() == "BF16" for name in content.keys()):  # noqa: SIM118
                return _read_with_bfloat16(file)
            return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{file} is not a complete safetensors file ({error}): copy it again.") from None


def _read_with_bfloat16(file: Path) -> dict[str, np.ndarray]:
    """numpy has no bfloat16: its sixteen bits are the upper half of a float32."""
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
    tensors = {}
    for name, tensor in safetensors.deserialize(file.read_bytes()):
        array = np.frombuffer(tensor["data"], types[tensor["dtype"]]).reshape(tensor["shape"])
        if tensor["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array
    return tensors
