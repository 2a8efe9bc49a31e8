"""Classifies a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from configs.model import LongText
from data.long_text import cut
from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field, softmax

_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda logits: logits,
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "softmax": softmax,
}


@dataclass
class TextClassification:
    """Returns `label` and `score` for every label, the highest score first.

    Scores are probabilities. A regression model (one label, or `problem_type` "regression") gives its raw output;
    with `problem_type` "multi_label_classification" each label has an independent probability.

    Attributes:
        long_text: how to read texts that are too long; "" means they are errors.
        longest: the maximum input length, in tokens (default: the encoder's).
        function: "softmax", "sigmoid" or "none", instead of the function that the model was trained with.
    """

    encoder: TextEncoder
    labels: Sequence[str]
    problem_type: str = ""
    long_text: LongText | Literal[""] = ""
    longest: int = 0
    function: str | None = None

    fields = ("text", "text_pair")
    outputs = ("logits",)
    keeps_sequences = False

    def encode(self, row: Row) -> list[Example]:
        if not self.long_text:
            return [self.encoder.text_or_pair(row)]
        names = ["text"] if row.get("text_pair") is None else ["text", "text_pair"]
        ids = [np.array(self.encoder.encode(field(row, name)).ids, np.int64) for name in names]
        longest = min(self.longest or self.encoder.max_length, self.encoder.max_length)
        cuts = cut(np.array([[len(each)] for each in ids]), longest - 1 - len(ids), self.long_text)
        return [
            self.encoder.example(*(each[cuts.tokens(text, record)].tolist() for text, each in enumerate(ids)))
            for record in range(len(cuts.row))
        ]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        return outputs["logits"].copy()  # [C]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[dict[str, Any]]:
        logits = reduced[0] if len(reduced) == 1 else np.mean(reduced, axis=0)  # the mean over windows
        function = self.function
        if function is None and (self.problem_type == "regression" or len(self.labels) == 1):
            function = "none"
        elif function is None:
            function = "sigmoid" if self.problem_type == "multi_label_classification" else "softmax"
        scores = _FUNCTIONS[function](logits)
        return [{"label": self.labels[i], "score": float(scores[i])} for i in np.argsort(-scores, kind="stable")]
