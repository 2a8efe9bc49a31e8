"""Directories written by `flow.save`: a pickle next to one directory per tensor.

This is the only format that needs unpickling, so it is only read if the user trusts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import kernels
from utils.errors import UserError

_PICKLE = "pickled_data"


def is_oneflow_save(path: Path) -> bool:
    return (path / _PICKLE).is_file()


def read(path: Path, *, trust: bool) -> dict[str, np.ndarray]:
    """Reads the tensors of a saved state dict.

    Raises:
        UserError: the directory is not trusted, or is not a state dict.
    """
    if not trust:
        raise UserError(
            f"{path} was written by flow.save, and loading it can run arbitrary code: "
            "pass --trust_checkpoint if you trust its source."
        )
    try:
        content: Any = _flow().load(str(path))
    except Exception as error:  # the pickle may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read by flow.load ({reason}): copy it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} contains a {type(content).__name__}, not a model's state dict.")
    return {name: value.numpy().copy() for name, value in content.items() if hasattr(value, "numpy")}


def write(state: dict[str, np.ndarray], directory: Path) -> None:
    """Writes a state dict with `flow.save`."""
    flow = _flow()
    flow.save({name: flow.tensor(array) for name, array in state.items()}, str(directory))


def _flow() -> Any:
    kernels.import_oneflow()  # here, because it takes seconds and other formats do without it
    import oneflow

    return oneflow
