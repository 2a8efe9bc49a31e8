"""Checkpoints of lazy OneFlow (0.2 to 0.4): one directory per variable, which contains `out` and usually `meta`.

`out` is raw little-endian float32; `meta` is a text message with the shape. Older converters wrote neither `meta` nor
`snapshot_done`: their tensors are flat and get their shapes from the configuration.
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
    """Reads the variables under their original names, and returns whether they are flat (one has no `meta`).

    Raises:
        UserError: there are no variables, or an `out` and its `meta` disagree.
    """
    variables: dict[str, np.ndarray] = {}
    flat = False
    for out in sorted(path.glob("*/out")):
        meta = out.with_name("meta")
        size = out.stat().st_size
        if size % 4:
            raise UserError(f"{out} is truncated ({size} bytes is not a multiple of 4): copy it again.")
        array = np.fromfile(out, dtype="<f4")
        if meta.is_file():
            shape = _shape(meta)
            if math.prod(shape) != array.size:
                raise UserError(f"{out} contains {array.size} numbers, but its meta says {list(shape)}: copy it again.")
            array = array.reshape(shape)
        else:
            flat = True
        variables[out.parent.name] = array
    if not variables:
        raise UserError(
            f"{path} contains no variable: a lazy checkpoint has one directory with a file 'out' per variable."
        )
    return variables, flat


def write(variables: dict[str, np.ndarray], directory: Path) -> None:
    """Writes `out` and `meta` for each variable, then `snapshot_done`."""
    for name, array in variables.items():
        (directory / name).mkdir()
        array.astype("<f4").tofile(directory / name / "out")
        dims = "".join(f"  dim: {size}\n" for size in array.shape)
        (directory / name / "meta").write_text(f"shape {{\n{dims}}}\ndata_type: kFloat\n", encoding="utf-8")
    (directory / _DONE).touch()


def _shape(meta: Path) -> tuple[int, ...]:
    kind, shape = described(meta)
    if kind not in ("kFloat", "2"):
        raise UserError(f"{meta} says {kind}: only kFloat (float32) variables can be read.")
    return shape


def described(meta: Path) -> tuple[str, tuple[int, ...]]:
    """The type that a `meta` file names, kFloat if it names none, and the shape.

    Raises:
        UserError: it has no shape.
    """
    text = meta.read_bytes()[:_MOST_META_BYTES].decode("utf-8", "replace")
    kind = re.search(r"data_type\s*:\s*(\w+)", text)
    if not re.search(r"shape\s*:?\s*\{", text):
        raise UserError(f"{meta} has no shape: copy it again, or remove every meta to use the configuration's shapes.")
    return kind[1] if kind else "kFloat", tuple(int(size) for size in re.findall(r"dim\s*:\s*(\d{1,12})\b", text))
