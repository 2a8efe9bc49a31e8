"""Reads the tensors of a file written by `torch.save`, without PyTorch and without running code in the file.

It reads both file formats: the zip archive of PyTorch 1.6 and later, and the older plain file. Beside what
`pickle_program.py` supports, two function names are known: rebuild a tensor, and wrap it as a parameter.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from conversion.pickle_program import Global, Machine, Refused, state_dict_of
from utils.errors import UserError

_MOST_PICKLE_BYTES = 64 << 20
_MOST_BYTES_PER_BYTE = 2  # bytes of tensors per byte of the file: tied weights are two tensors on one storage
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {  # numpy type of each storage class; bfloat16 is widened by hand
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    kind: str
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict saved by PyTorch.

    Raises:
        UserError: the file was not written by PyTorch, is truncated, or contains anything but tensors, numbers and
            strings.
    """
    try:
        with path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except Refused as refusal:
        raise UserError(
            f"{path} is refused: {refusal}. No code in it was run. Save the weights as safetensors."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, MemoryError,
            RuntimeError, struct.error, zipfile.BadZipFile) as error:  # fmt: skip
        raise UserError(
            f"{path} is not a readable PyTorch file ({error}): copy it again, or save it as safetensors."
        ) from None


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # torch.save never compresses, so compressed archives (zip bombs) can be refused.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise Refused("its archive is compressed, which PyTorch never does")
        if sum(entry.file_size for entry in entries.values()) > size:
            raise Refused("its archive claims more bytes than the file has")
        (pickle_name,) = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if entries[pickle_name].file_size > _MOST_PICKLE_BYTES:
            raise Refused("its index is too large")
        root = pickle_name.removesuffix("data.pkl")
        if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
            raise Refused("its numbers are big-endian")
        state = _Machine(io.BytesIO(archive.read(pickle_name))).run()
        return _arrays(state, lambda key: archive.read(f"{root}data/{key}"), size)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads magic, protocol, system info, state dict, storage keys, then the size and bytes of each storage."""
    file.seek(0)
    if file.read(1) != b"\x80":
        raise ValueError("neither a zip archive nor a pickle")
    file.seek(0)
    if _Machine(file).run() != _LEGACY_MAGIC:
        raise Refused("it is a pickle, but not one of PyTorch's")
    _Machine(file).run()  # protocol version
    system = _Machine(file).run()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Refused("its numbers are big-endian")
    state = _Machine(file).run()
    keys = _Machine(file).run()
    kinds = {tensor.storage.key: tensor.storage.kind for tensor in _tensors(state).values()}
    places: dict[str, tuple[int, int]] = {}
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * np.dtype(_STORAGES[kinds[key]]).itemsize
        if count < 0 or file.tell() + length > end:
            raise ValueError("truncated")
        places[key] = (file.tell(), length)
        file.seek(length, os.SEEK_CUR)

    def storage(key: str) -> bytes:
        offset, length = places[key]
        file.seek(offset)
        return file.read(length)

    return _arrays(state, storage, end)


def _tensors(state: Any) -> dict[str, _Tensor]:
    """The named tensors of a state dict, or of the state dict in a training checkpoint."""
    return {name: value for name, value in state_dict_of(state).items() if isinstance(value, _Tensor)}


def _arrays(state: Any, storage: Callable[[str], bytes], file_size: int) -> dict[str, np.ndarray]:
    tensors = _tensors(state)
    # Many tensors on one storage could use much memory from a small file.
    claimed = sum(_bytes(tensor) for tensor in tensors.values())
    if claimed > _MOST_BYTES_PER_BYTE * file_size:
        raise Refused(f"its tensors claim {claimed:,} bytes, but the file has {file_size:,}")
    return {name: _array(tensor, storage) for name, tensor in tensors.items()}


def _bytes(tensor: _Tensor) -> int:
    sizes = [size for size in tensor.shape if type(size) is int and size > 0]
    return math.prod(sizes) * np.dtype(_STORAGES[tensor.storage.kind]).itemsize


def _array(tensor: _Tensor, storage: Callable[[str], bytes]) -> np.ndarray:
    flat = np.frombuffer(storage(tensor.storage.key), dtype=_STORAGES[tensor.storage.kind])
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise Refused("a tensor has an impossible shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    elements = math.prod(int(size) for size in shape)
    if elements > flat.size or (elements and last >= flat.size):
        raise Refused("a tensor reaches beyond its data")
    item = flat.itemsize
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, [s * item for s in strides], writeable=False)
    if tensor.storage.kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.copy()


_GLOBALS = {
    *Machine.globals,
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{storage}" for storage in _STORAGES),
}


class _Machine(Machine):
    """The machine for what PyTorch writes."""

    globals = _GLOBALS

    def _binpersid(self, argument: Any) -> None:
        kind, storage, key, _, numel = self.stack.pop()[:5]
        if kind != "storage" or not isinstance(storage, Global) or not isinstance(key, str) or type(numel) is not int:
            raise Refused("it refers to something that is not a tensor storage")
        self.stack.append(_Storage(storage.name.removeprefix("torch."), key, numel))

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
                raise Refused("a tensor is built from something other than data")
            return _Tensor(storage, offset, shape, strides)
        if name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], _Tensor):
            return arguments[0]
        return super().called(name, arguments)
