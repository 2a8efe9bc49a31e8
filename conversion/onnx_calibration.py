"""Measures the ranges of activations on the user's texts, for ONNX graphs with fixed activation scales."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError

Ranges = dict[str, tuple[float, float]]  # {tensor: its smallest and largest value}

_MOST_TEXTS, _TEXTS_PER_BATCH, _MOST_CHARACTERS = 512, 8, 10_000


def measure(model: Path, tensors: list[str], texts: str, longest: int) -> Ranges:
    """Runs a model on texts and measures activations.

    Args:
        model: an ONNX file with `tensors` as outputs, in a directory with the tokenizer.
        tensors: names of the activations.
        texts: a file with one text per line, of which the first 512 are used.
        longest: the model's maximum input length, in tokens.

    Returns:
        The range of each tensor over all tokens.

    Raises:
        UserError: ONNX Runtime, the tokenizer or the texts are missing, or the vocabulary belongs to another model.
    """
    session = _runtime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    lines = _lines(Path(texts))
    found = dict.fromkeys(tensors, (0.0, 0.0))  # 0 must be one of the 256 values
    try:
        for inputs in _batches(_tokenizer(model.parent, longest), lines):
            inside = inputs["attention_mask"].astype(bool)
            for name, values in zip(tensors, session.run(tensors, inputs), strict=True):
                low, high = found[name]
                found[name] = min(low, float(values[inside].min())), max(high, float(values[inside].max()))
    except UserError:
        raise
    except Exception as error:  # both libraries raise their own exceptions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--calibration_path {texts}: the model cannot process these texts ({reason:.200}): "
            "check that the vocabulary belongs to the model."
        ) from None
    return found


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            stripped = (line.strip() for line in iter(lambda: stream.readline(_MOST_CHARACTERS), ""))
            lines = list(itertools.islice((line for line in stripped if line), _MOST_TEXTS))
    except OSError as error:
        raise UserError(f"--calibration_path {file} cannot be read: {error.strerror}.") from None
    if not lines:
        raise UserError(f"--calibration_path {file} contains no text: pass a file with one text per line.")
    return lines


def _batches(tokenizer: Any, texts: list[str]) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(texts), _TEXTS_PER_BATCH):
        encodings = tokenizer.encode_batch(texts[start : start + _TEXTS_PER_BATCH])
        yield {
            "input_ids": np.array([each.ids for each in encodings], np.int64),
            "attention_mask": np.array([each.attention_mask for each in encodings], np.int64),
            "token_type_ids": np.array([each.type_ids for each in encodings], np.int64),
        }


def _tokenizer(directory: Path, longest: int) -> Any:
    tokenizers = importlib.import_module("tokenizers")
    rules = directory / "tokenizer.json"  # written next to the graph, generated from the vocabulary if necessary
    if not rules.is_file():
        raise UserError("--calibration_path needs the model's vocabulary: set it with --vocab_file.")
    tokenizer = tokenizers.Tokenizer.from_file(str(rules))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    return tokenizer


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise UserError("--calibration_path needs ONNX Runtime: install it with `make setup EXTRAS=onnx`.") from None
