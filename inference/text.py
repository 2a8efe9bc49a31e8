"""Converts texts to token ids, with checks of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from inference.runner import Example
from utils.errors import UserError


class TextTooLong(UserError):
    """A text has more tokens than the model accepts."""


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer that adds the special tokens: `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]`.

    Attributes:
        max_length: the longest input, in tokens.
        segments: the model's number of segment types.
        separators: the number of `[SEP]` between a text and its pair.
        keep: which end of a text to keep if it is too long; None refuses such texts.
    """

    tokenizer: Tokenizer
    vocab: Mapping[str, int]
    max_length: int
    segments: int
    keep: Literal["start", "end"] | None = None
    separators: int = 1

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens, indexed by id."""
        by_id = [""] * (max(self.vocab.values()) + 1)
        for token, index in self.vocab.items():
            by_id[index] = token
        return by_id

    @cached_property
    def mask(self) -> str:
        """The name of the mask token."""
        return self.tokens[self.vocab["[MASK]"]]

    def encode(self, text: str) -> Encoding:
        """Ids and offsets of a text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def example(self, first: list[int], second: list[int] | None = None) -> Example:
        """Adds the special tokens.

        Raises:
            TextTooLong: the input is longer than `max_length`.
        """
        if self.keep:
            first, second = self._cut(first, second)
        cls, sep = self.vocab["[CLS]"], self.vocab["[SEP]"]
        ids = [cls, *first, sep] if second is None else [cls, *first, *[sep] * self.separators, *second, sep]
        if len(ids) > self.max_length:
            raise TextTooLong(
                f"the text has {len(ids)} tokens, but the model accepts at most {self.max_length}: shorten it."
            )
        segment_ids = np.zeros(len(ids), np.int32)
        if self.segments > 1:
            segment_ids[len(first) + 1 + self.separators :] = 1
        return Example(np.array(ids, np.int32), segment_ids)

    def _cut(self, first: list[int], second: list[int] | None) -> tuple[list[int], list[int] | None]:
        """Truncates token ids to fit into one example; in a pair, the longer text is shortened first."""
        room = self.max_length - (2 if second is None else 2 + self.separators)
        most = min(len(second or ()), max(room // 2, room - len(first)))  # of the second text

        def cut(ids: list[int], length: int) -> list[int]:
            return ids[:length] if self.keep == "start" else ids[max(0, len(ids) - length) :]

        return cut(first, room - most), None if second is None else cut(second, most)

    def text_or_pair(self, row: Mapping[str, Any]) -> Example:
        """The example for `text`, or for `text` and `text_pair` if the row has both."""
        pair = field(row, "text_pair") if row.get("text_pair") is not None else None
        return self.example(self.encode(field(row, "text")).ids, None if pair is None else self.encode(pair).ids)


def field(row: Mapping[str, Any], name: str) -> str:
    """The row's text in a field.

    Raises:
        UserError: it is missing, empty, or not text.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise UserError(f"{name!r} is missing." if value is None else f"{name!r} must be text, not {value!r}.")
    if not value.strip():
        raise UserError(f"the {name.replace('_', ' ')} is empty.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"the {name.replace('_', ' ')} is not valid UTF-8.")
    return value


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
