"""Google's TensorFlow checkpoints, read and written by TensorFlow itself (an optional package)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from conversion import tensorflow2
from utils.errors import UserError

PREFIX = "bert_model.ckpt"
_OBJECT_GRAPH = "/.ATTRIBUTES/VARIABLE_VALUE"


def find(path: Path) -> Path | None:
    """The checkpoint's prefix (its files are `<prefix>.index` and `<prefix>.data-…`), if `path` is of this format.

    In a directory it is `bert_model.ckpt`, or else the newest checkpoint of a training run.
    """
    if path.name and path.with_name(path.name + ".index").is_file():
        return path
    if path.suffix == ".index" and path.is_file():
        return path.with_suffix("")
    if not path.is_dir():
        return None
    found = sorted(
        path.glob("*ckpt*.index"), key=lambda index: (index.name == f"{PREFIX}.index", index.stat().st_mtime)
    )
    return found[-1].with_suffix("") if found else None


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads every floating-point variable of the checkpoint.

    Raises:
        UserError: TensorFlow is not installed or cannot read the file, or its object graph is not that of a known BERT.
    """
    prefix = find(path)
    if prefix is None:
        raise UserError(f"{path} is not a TensorFlow checkpoint: {PREFIX}.index is missing.")
    if not list(prefix.parent.glob(f"{prefix.name}.data-*")):
        raise UserError(f"{prefix}.data-00000-of-00001 is missing next to {prefix.name}.index: copy all of its files.")
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        types = reader.get_variable_to_dtype_map()
        if tensorflow2.OBJECT_GRAPH in types:
            return tensorflow2.read(reader)
        return {name: reader.get_tensor(name) for name, kind in types.items() if kind.is_floating}
    except UserError as error:
        raise UserError(f"{prefix}: {error}") from None
    except (tensorflow.errors.OpError, RuntimeError, ValueError, LookupError, TypeError, MemoryError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{prefix} is not a complete TensorFlow checkpoint ({reason}): copy its files again.") from None


def write(variables: dict[str, np.ndarray], directory: Path) -> None:
    """Writes `bert_model.ckpt.index` and `.data-00000-of-00001`, with the names of a TensorFlow 1 saver."""
    tensorflow = _tensorflow()
    names = sorted(variables)
    tensorflow.raw_ops.SaveV2(
        prefix=str(directory / PREFIX),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tensorflow.constant(variables[name]) for name in names],
    )


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError:
        raise UserError(
            "TensorFlow is needed for TensorFlow checkpoints: install it with `make setup EXTRAS=tensorflow`."
        ) from None
