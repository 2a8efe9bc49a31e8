"""The class of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, softmax

_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda logits: logits,
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "softmax": softmax,
}


@dataclass
class TextClassification:
    """Answers with `label` and `score` for every label, the highest score first.

    Scores are probabilities. A regression model (one label, or `problem_type` "regression") gives its raw output;
    with `problem_type` "multi_label_classification" each label has a probability of its own.

    Attributes:
        function: "softmax", "sigmoid" or "none", in place of what the model was trained for.
    """

    encoder: TextEncoder
    labels: Sequence[str]
    problem_type: str = ""
    function: str | None = None

    fields = ("text", "text_pair")
    outputs = ("logits",)
    keeps_sequences = False

    def encode(self, row: Row) -> list[Example]:
        return [self.encoder.text_or_pair(row)]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        return outputs["logits"].copy()  # [C]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[dict[str, Any]]:
        function = self.function
        if function is None and (self.problem_type == "regression" or len(self.labels) == 1):
            function = "none"
        elif function is None:
            function = "sigmoid" if self.problem_type == "multi_label_classification" else "softmax"
        scores = _FUNCTIONS[function](reduced[0])
        return [{"label": self.labels[i], "score": float(scores[i])} for i in np.argsort(-scores, kind="stable")]
