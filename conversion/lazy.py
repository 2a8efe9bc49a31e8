"""Checkpoints of lazy OneFlow (0.2 to 0.4): one directory per variable, holding `out` and mostly `meta`.

`out` is raw little-endian float32; `meta` is a text message with the shape. Older converters wrote `out` alone and no
`snapshot_done`: their tensors come back flat, and take their shapes from the configuration.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from utils.errors import UserError

_DONE = "snapshot_done"
_MOST_META_BYTES = 64 << 10


def is_lazy(path: Path) -> bool:
    return path.is_dir() and ((path / _DONE).exists() or any(path.glob("*embeddings*/out")))


def read(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """The variables under their own names, and whether they are flat (any of them without `meta`).

    Raises:
        UserError: an `out` that is shorter or longer than its `meta` says, or a `meta` that says something else.
    """
    variables: dict[str, np.ndarray] = {}
    flat = False
    for out in sorted(path.glob("*/out")):
        meta = out.with_name("meta")
        size = out.stat().st_size
        if size % 4:
            raise UserError(f"{out} is truncated ({size} bytes are no float32 numbers): copy it again.")
        array = np.fromfile(out, dtype="<f4")
        if meta.is_file():
            shape = _shape(meta)
            if math.prod(shape) != array.size:
                raise UserError(f"{out} holds {array.size} numbers where its meta says {list(shape)}: copy it again.")
            array = array.reshape(shape)
        else:
            flat = True
        variables[out.parent.name] = array
    if not variables:
        raise UserError(f"{path} holds no variable: a lazy checkpoint is made of directories with a file named 'out'.")
    return variables, flat


def write(variables: dict[str, np.ndarray], directory: Path) -> None:
    """A full checkpoint: `out` and `meta` for each variable, then `snapshot_done`."""
    for name, array in variables.items():
        (directory / name).mkdir()
        array.astype("<f4").tofile(directory / name / "out")
        dims = "".join(f"  dim: {size}\n" for size in array.shape)
        (directory / name / "meta").write_text(f"shape {{\n{dims}}}\ndata_type: kFloat\n", encoding="utf-8")
    (directory / _DONE).touch()


def _shape(meta: Path) -> tuple[int, ...]:
    text = meta.read_bytes()[:_MOST_META_BYTES].decode("utf-8", "replace")
    kind = re.search(r"data_type\s*:\s*(\w+)", text)
    if kind is not None and kind[1] not in ("kFloat", "2"):
        raise UserError(f"{meta} says {kind[1]}: only kFloat (float32) variables can be read.")
    if not re.search(r"shape\s*:?\s*\{", text):
        raise UserError(f"{meta} gives no shape: copy it again, or remove every meta to take the shapes from a config.")
    return tuple(int(size) for size in re.findall(r"dim\s*:\s*(\d{1,12})\b", text))
