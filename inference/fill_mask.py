"""Predicts the most probable tokens for each [MASK] of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.tokenization import is_byte_level
from inference.errors import ArgumentError
from inference.pipelines import Row
from inference.runner import POSITIONS_PER_EXAMPLE, Example, Outputs
from inference.text import TextEncoder, field
from utils.errors import UserError

MASK = "[MASK]"
_BLOCK = 128


@dataclass
class FillMask:
    """Answers like Hugging Face's pipeline: a list of `score`, `token`, `token_str` and `sequence` for each mask.

    Attributes:
        top_k: the number of answers per mask.
        max_predictions: the maximum number of masks in one text (default: no limit).
    """

    encoder: TextEncoder
    top_k: int = 5
    max_predictions: int | None = None

    fields = ("text",)
    outputs = ("prediction_scores",)
    keeps_sequences = False

    def __post_init__(self) -> None:
        self.tokens = self.encoder.tokens
        self.bytes = is_byte_level(self.encoder.tokenizer)

    def pieces(self, text: str) -> list[str]:
        """The parts of a text around its masks, which may have BERT's name or the model's own.

        In byte-level tokenizers the mask takes the place of a word and of the space before it.
        """
        pieces = text.replace(self.encoder.mask, MASK).split(MASK)
        return [piece.rstrip() for piece in pieces[:-1]] + pieces[-1:] if self.bytes else pieces

    def encode(self, row: Row) -> list[Example]:
        pieces = self.pieces(field(row, "text"))
        masks = len(pieces) - 1
        if not masks:
            raise UserError(f"the text contains no {MASK}: put one in place of the word to predict.")
        if self.max_predictions and masks > self.max_predictions:
            raise ArgumentError(
                "max_predictions",
                f"{self.max_predictions} is too low for this text, which has {masks} {MASK}: raise it.",
            )
        ids: list[int] = []
        positions = []
        for piece in pieces:
            ids += self.encoder.encode(piece).ids
            positions.append(len(ids) + 1)  # after [CLS]
            ids.append(self.encoder.vocab[MASK])
        example = self.encoder.example(ids[:-1])
        return [
            replace(example, masked_lm_positions=np.array(positions[start:-1][:POSITIONS_PER_EXAMPLE], np.int32))
            for start in range(0, masks, POSITIONS_PER_EXAMPLE)
        ]

    def reduce(self, example: Example, outputs: Outputs) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best ids and their probabilities for each position."""
        assert example.masked_lm_positions is not None
        scores = outputs["prediction_scores"][: len(example.masked_lm_positions), : len(self.tokens)]  # [P, V]
        return [_best(logits, self.top_k) for logits in scores]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[Any]:
        pieces = self.pieces(row["text"])
        answers = []
        for mask, (ids, scores) in enumerate(best for part in reduced for best in part):
            before, after = MASK.join(pieces[: mask + 1]), MASK.join(pieces[mask + 1 :])
            answers.append(
                [
                    {
                        "score": float(score),
                        "token": int(index),
                        "token_str": token,
                        "sequence": _fill(before, token, after),
                    }
                    for index, score in zip(ids, scores, strict=True)
                    for token in [self._shown(index)]
                ]
            )
        return answers[0] if len(answers) == 1 else answers

    def _shown(self, index: int) -> str:
        """A token as text; in byte-level tokenizers with the space before it."""
        if not self.bytes:
            return self.tokens[index]
        shown: str = self.encoder.tokenizer.decode([index], skip_special_tokens=False)
        return shown


def _best(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the largest logits [V], in descending order, and their probabilities."""
    blocks = np.maximum.reduceat(logits, np.arange(0, len(logits), _BLOCK))
    # At least `count` logits, but few more, reach the `count`-th largest block maximum, which avoids sorting all V.
    floor = np.partition(blocks, -count)[-count] if count <= len(blocks) else -np.inf
    ids = np.flatnonzero(logits >= floor)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    largest = logits[ids[0]]
    return ids, np.exp(logits[ids] - largest) / np.exp(logits - largest).sum()


def _fill(before: str, token: str, after: str) -> str:
    """The text with the token in place of the mask; a `##` piece joins the word before it."""
    if token.startswith("##"):
        return before.rstrip() + token[2:] + after
    return before + token + after
