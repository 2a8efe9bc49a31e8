"""Predicts the tag of each word of a text, or the entities that the tags mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from data.tagging import best_windows, windows
from data.tokenization import is_byte_level
from inference.errors import ArgumentError
from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field, softmax

AGGREGATIONS = ("none", "simple", "first", "average", "max")
_OUTSIDE = "O"
# How the probabilities [pieces, C] of a word's pieces are combined into those of the word.
_OF_WORD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}


@dataclass
class TokenClassification:
    """Returns the same as Hugging Face's pipeline: a list of `score`, `word`, `start` and `end`, without `O` tags.

    With "none", each token is an answer, with its tag as `entity` and its position as `index`. Otherwise tokens are
    grouped into entities, with their type as `entity_group`: "simple" takes each token's own tag, "first", "average"
    and "max" give the tokens of a word one tag, from the first token, the mean or the most certain token. The default
    is "first", because run_ner.py trains the first token of each word.

    A text that is longer than the model's maximum input is read in windows that overlap by half; each token is
    classified in the window where it has the most context.
    """

    encoder: TextEncoder
    labels: Sequence[str]
    aggregation_strategy: str = "first"

    fields = ("text",)
    outputs = ("logits",)
    keeps_sequences = False

    def __post_init__(self) -> None:
        if self.aggregation_strategy not in AGGREGATIONS:
            raise ArgumentError(
                "aggregation_strategy", f"{self.aggregation_strategy} is unknown: use {', '.join(AGGREGATIONS)}."
            )

    def encode(self, row: Row) -> list[Example]:
        ids = self.encoder.encode(field(row, "text")).ids
        return [self.encoder.example(ids[start:end]) for start, end in self._spans(len(ids))]

    def reduce(self, example: Example, outputs: Outputs) -> np.ndarray:
        return softmax(outputs["logits"][1 : len(example.input_ids) - 1])  # [tokens, C], without [CLS] and [SEP]

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[dict[str, Any]]:
        encoding = self.encoder.encode(row["text"])
        spans, count = self._spans(len(encoding.ids)), len(encoding.ids)
        scores = np.zeros((count, len(self.labels)), np.float32)
        for token, window in enumerate(best_windows(spans, count).tolist()):
            scores[token] = reduced[window][token - spans[window][0]]
        tokens = [
            self._token(row["text"], number, encoding.ids[number], encoding.offsets[number]) for number in range(count)
        ]
        if self.aggregation_strategy in _OF_WORD:
            found = self._of_words(tokens, scores)
        else:
            found = [self._judged(token, own) for token, own in zip(tokens, scores, strict=True)]
        if self.aggregation_strategy == "none":
            answers = [{**token, "index": number} for number, token in enumerate(found, 1)]
            keys = ("entity", "score", "index", "word", "start", "end")
            return [{key: one[key] for key in keys} for one in answers if one["entity"] != _OUTSIDE]
        return [one for one in self._grouped(found) if one["entity_group"] != _OUTSIDE]

    def _spans(self, count: int) -> list[tuple[int, int]]:
        most = self.encoder.max_length - 2
        return list(windows([1] * count, most, max(most // 2, 1))) if count else [(0, 0)]

    def _token(self, text: str, number: int, index: int, offsets: tuple[int, int]) -> dict[str, Any]:
        start, end = offsets
        word, source = self.encoder.tokenizer.id_to_token(index) or "", text[start:end]
        unknown = index == self.encoder.vocab["[UNK]"]
        # As in Hugging Face's pipeline, a token continues a word if it has more characters than the text it covers, or
        # in byte-level tokenizers if there is no space before it.
        continues = not unknown and len(word) != len(source)
        if is_byte_level(self.encoder.tokenizer):
            continues = start > 0 and " " not in text[start - 1 : start + 1]
        return {"word": source if unknown else word, "start": start, "end": end, "continues": continues}

    def _judged(self, token: dict[str, Any], scores: np.ndarray) -> dict[str, Any]:
        best = int(scores.argmax())
        kept = {name: value for name, value in token.items() if name != "continues"}
        return {**kept, "entity": self.labels[best], "score": float(scores[best])}

    def _of_words(self, tokens: list[dict[str, Any]], scores: np.ndarray) -> list[dict[str, Any]]:
        starts = [n for n, token in enumerate(tokens) if n == 0 or not token["continues"]]
        words = []
        for first, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
            own = tokens[first:end]
            word = {"word": self._joined(own), "start": own[0]["start"], "end": own[-1]["end"]}
            words.append(self._judged(word, _OF_WORD[self.aggregation_strategy](scores[first:end])))
        return words

    def _grouped(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Merges adjacent tokens of the same type into entities; a `B-` tag begins a new one."""
        number, groups = 0, []
        for before, one in zip([None, *found], found, strict=False):
            prefix, kind = _parts(one["entity"])
            if before is not None and (prefix == "B" or kind != _parts(before["entity"])[1]):
                number += 1
            groups.append((number, one))
        answers = []
        for _, members in groupby(groups, key=lambda group: group[0]):
            own = [one for _, one in members]
            answers.append(
                {
                    "entity_group": own[0]["entity"].split("-", 1)[-1],
                    "score": float(np.mean([one["score"] for one in own])),
                    "word": self._joined(own),
                    "start": own[0]["start"],
                    "end": own[-1]["end"],
                }
            )
        return answers

    def _joined(self, tokens: list[dict[str, Any]]) -> str:
        joined: str = self.encoder.tokenizer.decoder.decode([token["word"] for token in tokens])
        return joined


def _parts(tag: str) -> tuple[str, str]:
    """The prefix of a tag (`I` if it has none) and its type."""
    return (tag[0], tag[2:]) if tag.startswith(("B-", "I-")) else ("I", tag)
