"""Reads and writes Hugging Face model directories (also this project's format): safetensors or PyTorch files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from conversion.torch_pickle import read_torch_file
from utils.errors import UserError
from utils.file_mode import follow_umask
from utils.json_file import read_text

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_MOST_INDEX_BYTES = 64 << 20
_READABLE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_READABLE |= {"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


def find(path: Path) -> Path | None:
    """The file that contains (or lists) the weights, if `path` is of this format.

    In a directory without any of `FILES`, it is the only file with a weights suffix.
    """
    if path.is_file():
        return path if path.suffix in _SUFFIXES or path.name in FILES else None
    named = [path / name for name in FILES if (path / name).is_file()]
    others = [file for suffix in _SUFFIXES for file in path.glob(f"*{suffix}") if file.is_file()]
    return named[0] if named else others[0] if len(others) == 1 else None


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors, {name in the files: array}; bfloat16 is widened to float32."""
    file = find(path)
    if file is None:
        raise UserError(f"{path} contains none of {', '.join(FILES)}.")
    if not file.name.endswith(".index.json"):
        return _read_file(file)
    tensors: dict[str, np.ndarray] = {}
    for shard in _shards(file):
        tensors.update(_read_file(shard))
    return tensors


def write(state: dict[str, np.ndarray], directory: Path) -> None:
    """Writes `model.safetensors`, with the metadata that transformers needs."""
    save_file(state, directory / FILES[0], metadata={"format": "pt"})
    follow_umask(directory / FILES[0])


def _shards(index: Path) -> list[Path]:
    """The files that an index lists, which must be in its directory."""
    try:
        names = set(json.loads(read_text(index, _MOST_INDEX_BYTES))["weight_map"].values())
        if not names or not all(isinstance(name, str) and _names_a_file(name) for name in names):
            raise ValueError("weight_map must name files in the same directory")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of shards ({error}): copy it again.") from None
    shards = [index.parent / name for name in sorted(names)]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{index.name} names {shard}, which does not exist: copy all of the model's files.")
    return shards


def _names_a_file(name: str) -> bool:
    return Path(name).name == name and name != ".." and name.endswith(_SUFFIXES)


def _read_file(file: Path) -> dict[str, np.ndarray]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file, framework="np") as content:
            types = {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118
            for name, kind in types.items():
                if kind not in _READABLE:
                    raise UserError(f"{file}: {name} is quantized ({kind}), which is not supported.")
            if "BF16" in types.values():
                return _read_with_bfloat16(file)
            return {name: content.get_tensor(name) for name in types}
    except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{file} is not a complete safetensors file ({error}): copy it again.") from None


def _read_with_bfloat16(file: Path) -> dict[str, np.ndarray]:
    """Reads bfloat16, which numpy does not have: its sixteen bits are the upper half of a float32."""
    tensors = {}
    for name, tensor in safetensors.deserialize(file.read_bytes()):
        array = np.frombuffer(tensor["data"], _READABLE[tensor["dtype"]]).reshape(tensor["shape"])
        if tensor["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array
    return tensors
