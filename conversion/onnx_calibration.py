"""Measures the range of activations on a user's texts, for ONNX graphs whose activations have fixed scales."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.json_file import read_settings

Ranges = dict[str, tuple[float, float]]  # {tensor: its smallest and largest value}

_MOST_TEXTS, _TEXTS_PER_BATCH, _MOST_CHARACTERS = 512, 8, 10_000
# Share of the values of a batch that a range leaves out at either end: a few outliers would cost all others precision.
_OUTSIDE = 1e-4


def measure(model: Path, tensors: list[str], texts: str, longest: int) -> Ranges:
    """Runs a model on texts.

    Args:
        model: an ONNX file that gives `tensors` as outputs, in a directory with the tokenizer.
        tensors: names of the activations.
        texts: a file with one text per line, of which the first 512 are used.
        longest: tokens of the longest sequence that the model can take.

    Returns:
        The range of each tensor: percentiles of each batch, averaged.

    Raises:
        UserError: there is no ONNX Runtime, no tokenizer, or no text.
    """
    session = _runtime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    edges: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for inputs in _batches(_tokenizer(model.parent, longest), _lines(Path(texts))):
        inside = inputs["attention_mask"].astype(bool)
        for name, values in zip(tensors, session.run(tensors, inputs), strict=True):
            values = values[inside] if values.shape[:2] == inside.shape else values
            edges[name].append(np.quantile(values, (_OUTSIDE, 1 - _OUTSIDE)))
    found = {name: np.mean(all_edges, axis=0) for name, all_edges in edges.items()}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            stripped = (line.strip()[:_MOST_CHARACTERS] for line in stream)
            lines = [text for text, _ in zip((text for text in stripped if text), range(_MOST_TEXTS), strict=False)]
    except OSError as error:
        raise UserError(f"--calibration_path {file} cannot be read: {error.strerror}.") from None
    if not lines:
        raise UserError(f"--calibration_path {file} holds no text: give a file with one text per line.")
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
    rules, vocabulary, settings = (directory / n for n in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"))
    if rules.is_file():
        tokenizer = tokenizers.Tokenizer.from_file(str(rules))
    elif vocabulary.is_file():
        lowercase = read_settings(settings).get("do_lower_case", True) if settings.is_file() else True
        tokenizer = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=bool(lowercase))
    else:
        raise UserError("--calibration_path needs the model's vocabulary: name it with --vocab_file.")
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    return tokenizer


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise UserError("--calibration_path needs ONNX Runtime: install it with `make setup EXTRAS=onnx`.") from None
