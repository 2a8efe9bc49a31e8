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

    def encode(self, row: Row) -> list[Example]:
        pieces = self._named(field(row, "text")).split(MASK)
        masks = len(pieces) - 1
        if not masks:
            raise UserError(f"the text contains no {MASK}: put one in place of the word to predict.")
        if self.max_predictions and masks > self.max_predictions:
            raise ArgumentError(
                "max_predictions",
                f"{self.max_predictions} is too low for this text, which has {masks} {MASK}: raise it.",
            )
        example = self.encoder.example(self._ids(pieces))
        positions = np.flatnonzero(example.input_ids == self.encoder.vocab[MASK]).astype(np.int32)
        return [
            replace(example, masked_lm_positions=positions[start : start + POSITIONS_PER_EXAMPLE])
            for start in range(0, masks, POSITIONS_PER_EXAMPLE)
        ]

    def reduce(self, example: Example, outputs: Outputs) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best ids and their probabilities for each position."""
        assert example.masked_lm_positions is not None
        scores = outputs["prediction_scores"][: len(example.masked_lm_positions), : len(self.tokens)]  # [P, V]
        return [_best(logits, self.top_k) for logits in scores]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[Any]:
        pieces = self._named(row["text"]).split(MASK)
        answers = []
        for mask, (ids, scores) in enumerate(best for part in reduced for best in part):
            before, after = MASK.join(pieces[: mask + 1]), MASK.join(pieces[mask + 1 :])
            answers.append(
                [
                    {
                        "score": float(score),
                        "token": int(index),
                        "token_str": self._decoded([index]) if self.bytes else self.tokens[index],
                        "sequence": self._filled(examples[0].input_ids, mask, index)
                        if self.bytes
                        else _fill(before, self.tokens[index], after),
                    }
                    for index, score in zip(ids, scores, strict=True)
                ]
            )
        return answers[0] if len(answers) == 1 else answers

    def _named(self, text: str) -> str:
        """The text with BERT's name for the model's mask token."""
        return text.replace(self.encoder.mask, MASK)

    def _ids(self, pieces: Sequence[str]) -> list[int]:
        """The token ids of the parts of a text with masks between them."""
        if self.bytes:  # the tokenizer knows the mask, and whether the space before it belongs to it
            return self.encoder.encode(self.encoder.mask.join(pieces)).ids
        ids: list[int] = self.encoder.encode(pieces[0]).ids
        for piece in pieces[1:]:
            ids = [*ids, self.encoder.vocab[MASK], *self.encoder.encode(piece).ids]
        return ids

    def _filled(self, input_ids: np.ndarray, mask: int, index: int) -> str:
        """The text of `[CLS] … [SEP]` with a token in place of one mask."""
        ids = input_ids[1:-1].copy()
        ids[np.flatnonzero(ids == self.encoder.vocab[MASK])[mask]] = index
        return self._decoded(ids.tolist())

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.encoder.tokenizer.decode(ids, skip_special_tokens=False)
        return text


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
