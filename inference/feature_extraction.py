"""The encoder's vectors for a text, and the similarity of two texts.

Shapes: `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field


@dataclass
class FeatureExtraction:
    """Returns one vector per token, including [CLS] and [SEP], or one pooled vector.

    Attributes:
        pooling: "tokens" (no pooling), "first" or "cls" (the vector of [CLS]), "mean" or "max" (over all tokens).
        dimensions: the number of leading dimensions of a pooled vector to keep (default: all).
        normalize: whether a pooled vector is then divided by its length.
    """

    encoder: TextEncoder
    pooling: str = "tokens"
    dimensions: int | None = None
    normalize: bool = False

    fields: tuple[str, ...] = ("text", "text_pair")
    outputs = ("sequence_output",)

    @property
    def keeps_sequences(self) -> bool:
        return self.pooling == "tokens"

    def encode(self, row: Row) -> list[Example]:
        return [self.encoder.text_or_pair(row)]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        vectors = outputs["sequence_output"]  # [S, H]
        if self.pooling == "tokens":
            return vectors.copy()  # a view would keep the whole batch alive
        pooled = {"mean": vectors.mean(0), "max": vectors.max(0)}.get(self.pooling, vectors[0])[: self.dimensions]
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12) if self.normalize else pooled.copy()

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> Any:
        return reduced[0].tolist()


@dataclass
class Similarity(FeatureExtraction):
    """Returns `score`, the cosine of the vectors of `text` and `text_pair`."""

    pooling: str = "mean"

    def encode(self, row: Row) -> list[Example]:
        return [self.encoder.example(self.encoder.encode(field(row, name)).ids) for name in ("text", "text_pair")]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> dict[str, float]:
        first, second = (vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in reduced)
        return {"score": float(first @ second)}
