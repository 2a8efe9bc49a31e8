"""The parts of a context that answer a question.

Windows, probabilities and the merging of equal answers are those of Hugging Face's pipeline: a span's score is the
probability of its start times that of its end, each over the window's context and [CLS], and spans are widened to
whole words. (`run_squad.py` decodes as Google's code, for the official scores.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.datasets.squad_features import doc_spans
from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field, softmax
from utils.errors import UserError

_SEQ_LENGTH, _OVERLAP = 384, 128  # of windows, in tokens, where nothing else is said


@dataclass
class QuestionAnswering:
    """Answers with `score`, `start` and `end` (characters of the context) and `answer`, the best first.

    Attributes:
        top_k: answers.
        max_answer_length: in tokens.
        doc_overlap: tokens that one window shares with the next.
        may_be_empty: whether "" (no answer) is an answer, as SQuAD 2.0 wants it.
    """

    encoder: TextEncoder
    top_k: int = 1
    max_answer_length: int = 15
    seq_length: int = _SEQ_LENGTH
    doc_overlap: int = _OVERLAP
    may_be_empty: bool = False

    fields = ("question", "context")
    outputs = ("start_logits", "end_logits")
    keeps_sequences = False

    def encode(self, row: Row) -> list[Example]:
        question, context = (
            self.encoder.encode(field(row, "question")).ids,
            self.encoder.encode(field(row, "context")).ids,
        )
        if not context:
            raise UserError("the context has no word in it.")
        seq_length = min(self.seq_length, self.encoder.max_length)
        window = seq_length - len(question) - 3  # [CLS] question [SEP] window [SEP]
        overlap = min(self.doc_overlap, seq_length // 2)
        if window <= overlap and len(context) > window:
            raise UserError(
                f"the question has {len(question)} tokens and leaves a context too little room: shorten it."
            )
        spans = doc_spans(len(context), window, window - overlap)
        return [self.encoder.example(question, context[start : start + length]) for start, length in spans]

    def reduce(self, example: Example, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        return outputs["start_logits"].copy(), outputs["end_logits"].copy()  # [S] each

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[dict[str, Any]]:
        question = len(self.encoder.encode(row["question"]).ids)
        encoding = self.encoder.encode(row["context"])
        first = question + 2  # the window's place in its example
        window = len(examples[0].input_ids) - first - 1
        step = window - min(self.doc_overlap, min(self.seq_length, self.encoder.max_length) // 2)
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1.0
        for index, (start_logits, end_logits) in enumerate(reduced):
            spans, empty = self._spans(start_logits, end_logits, first)
            nothing = min(nothing, empty)
            for start, end, score in spans:
                begin, _ = _word(encoding, index * step + start)
                _, stop = _word(encoding, index * step + end)
                text = row["context"][begin:stop]
                answer = answers.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                answer["score"] += score
        found = list(answers.values())
        if self.may_be_empty:
            found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        return sorted(found, key=lambda answer: -answer["score"])[: self.top_k]

    def _spans(
        self, start_logits: np.ndarray, end_logits: np.ndarray, first: int
    ) -> tuple[list[tuple[int, int, float]], float]:
        """The likeliest (start, end, score), counted from the window's first token, and the score of no answer."""
        probabilities = []
        for logits in (start_logits, end_logits):
            probabilities.append(softmax(np.concatenate([logits[:1], logits[first:-1]])))  # [CLS] and the window
        starts, ends = (p[1:] for p in probabilities)
        scores = np.triu(np.tril(np.outer(starts, ends), self.max_answer_length - 1)).ravel()
        count = min(2 * self.top_k + 10, len(scores))  # more than wanted: some become the same words
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.argsort(-scores[best], kind="stable")]
        places = [divmod(int(i), len(ends)) for i in best]
        allowed = range(self.max_answer_length)
        spans = [(s, e, float(scores[i])) for i, (s, e) in zip(best, places, strict=True) if e - s in allowed]
        return spans, float(probabilities[0][0] * probabilities[1][0])


def _word(encoding: Any, token: int) -> tuple[int, int]:
    """First character and end of the word that a token is part of."""
    return encoding.word_to_chars(encoding.token_to_word(token))
