"""Directories written by `flow.save`: a pickle next to one directory per tensor, as in the lazy format.

The pickle only says which directory has which tensor. It is read without running code in it (pickle_program.py), but
only if the user trusts it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from conversion.lazy import described
from conversion.pickle_program import Global, Machine, Refused, state_dict_of
from utils.errors import UserError

_PICKLE = "pickled_data"
_MOST_PICKLE_BYTES = 64 << 20
_TYPES = {
    "kFloat": "<f4",
    "kDouble": "<f8",
    "kFloat16": "<f2",
    "kInt8": "i1",
    "kUInt8": "u1",
    "kInt32": "<i4",
    "kInt64": "<i8",
    "kBool": "?",
}


def is_oneflow_save(path: Path) -> bool:
    return (path / _PICKLE).is_file()


def read(path: Path, *, trust: bool) -> dict[str, np.ndarray]:
    """Reads the tensors of a saved state dict.

    Raises:
        UserError: the directory is not trusted, is damaged, or is not a state dict.
    """
    if not trust:
        raise UserError(f"{path} was written by flow.save and contains a pickle: pass --trust_checkpoint to read it.")
    pickle = path / _PICKLE
    try:
        if pickle.stat().st_size > _MOST_PICKLE_BYTES:
            raise Refused("it is too large")
        with pickle.open("rb") as file:
            content = _Machine(file).run()
        saved = state_dict_of(content.get("data") if isinstance(content, dict) else content)
    except Refused as refusal:
        raise UserError(f"{pickle} is refused: {refusal}. No code in it was run. Save the weights again.") from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, MemoryError,
            struct.error) as error:  # fmt: skip
        raise UserError(f"{pickle} cannot be read ({error}): copy it again.") from None
    return {name: _array(path, tensor) for name, tensor in saved.items() if isinstance(tensor, _Saved)}


def write(state: dict[str, np.ndarray], directory: Path) -> None:
    """Writes a state dict with `flow.save`."""
    kernels.import_oneflow()  # here, because it takes seconds and other formats do without it
    import oneflow as flow

    flow.save({name: flow.tensor(array) for name, array in state.items()}, str(directory))


@dataclass
class _Saved:
    """A tensor of the pickle.

    Attributes:
        directory: the name of its directory.
    """

    directory: str = ""


class _Machine(Machine):
    """The machine for what `flow.save` writes: a tensor is an object with the attribute `path`."""

    globals = (*Machine.globals, "oneflow.Tensor", "oneflow.nn.Parameter", "oneflow.nn.parameter.Parameter")

    def _newobj(self, argument: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or not kind.name.startswith("oneflow.") or arguments != ():
            raise Refused("it makes an object that is not a tensor")
        self.stack.append(_Saved())

    def _build(self, argument: Any) -> None:
        attributes, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Saved):
            target.directory = str(attributes["path"])


def _array(path: Path, saved: _Saved) -> np.ndarray:
    name = saved.directory
    out = path / name / "out"
    if not name or Path(name).name != name or not out.is_file():
        raise UserError(f"{path} has no directory for one of its tensors ({name!r:.60}): copy it again.")
    kind, shape = described(out.with_name("meta"))
    if kind not in _TYPES:
        raise UserError(f"{out.with_name('meta')} says {kind}: convert the weights to float32 before saving them.")
    size, expected = out.stat().st_size, math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if size != expected:
        raise UserError(f"{out} has {size:,} bytes, but its meta asks for {expected:,}: copy it again.")
    return np.fromfile(out, dtype=_TYPES[kind]).reshape(shape)
