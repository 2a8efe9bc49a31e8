"""The encoder's vectors for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder


@dataclass
class FeatureExtraction:
    """Answers with one vector per token, including [CLS] and [SEP], or with one pooled vector.

    Attributes:
        pooling: "tokens" (no pooling), "first" (the vector of [CLS]) or "mean" (over all tokens).
    """

    encoder: TextEncoder
    pooling: str = "tokens"

    fields = ("text", "text_pair")
    outputs = ("sequence_output",)

    @property
    def keeps_sequences(self) -> bool:
        return self.pooling == "tokens"

    def encode(self, row: Row) -> list[Example]:
        return [self.encoder.text_or_pair(row)]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        vectors = outputs["sequence_output"]  # [S, H]
        if self.pooling == "mean":
            return vectors.mean(0)
        return (vectors[0] if self.pooling == "first" else vectors).copy()  # a view would keep the whole batch alive

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[Any]:
        return reduced[0].tolist()
