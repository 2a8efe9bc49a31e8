"""The encoder's vectors for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder

POOLINGS = ("tokens", "first", "mean")


@dataclass
class FeatureExtraction:
    """Answers with one vector for each token, [CLS] and [SEP] among them; pooled, with one for the text."""

    encoder: TextEncoder
    pooling: str = "tokens"  # of POOLINGS

    fields = ("text", "text_pair")
    outputs = ("sequence_output",)

    @property
    def keeps_sequences(self) -> bool:
        return self.pooling == "tokens"

    def encode(self, row: Row) -> list[Example]:
        return [self.encoder.text_or_pair(row)]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        vectors = outputs["sequence_output"]  # [S, H]
        return {"tokens": vectors.copy, "first": vectors[0].copy, "mean": lambda: vectors.mean(0)}[self.pooling]()

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[Any]:
        return reduced[0].tolist()
