"""Predicts whether one text follows another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field, softmax


@dataclass
class NextSentence:
    """Returns `label` ("is_next" or "random") and `score`, the label's probability."""

    encoder: TextEncoder

    fields = ("text", "text_pair")
    outputs = ("seq_relationship_score",)
    keeps_sequences = False

    def encode(self, row: Row) -> list[Example]:
        field(row, "text_pair")
        # One masked position, because without any the masked-LM head would score the whole text.
        return [replace(self.encoder.text_or_pair(row), masked_lm_positions=np.zeros(1, np.int32))]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        return outputs["seq_relationship_score"].copy()  # [2]: is next, is random

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> dict[str, Any]:
        probabilities = softmax(reduced[0])
        label = int(probabilities.argmax())
        return {"label": ("is_next", "random")[label], "score": float(probabilities[label])}
