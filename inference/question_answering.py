"""Finds spans of a context that answer a question.

Windows, probabilities and the merging of equal answers follow Hugging Face's pipeline: a span's score is the
probability of its start times the probability of its end, each over the window's context and [CLS]. Spans are
extended to whole words, except in scripts without spaces between words. (`run_squad.py` decodes answers with
evaluation/squad_decoding.py, like Google's code, for the official scores.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.squad import doc_spans
from inference.pipelines import Row
from inference.runner import Example, Outputs
from inference.text import TextEncoder, field, softmax
from utils.errors import UserError

# Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\uff66-\uff9f]")
_SEQ_LENGTH, _OVERLAP = 384, 128  # defaults for windows, in tokens


@dataclass
class QuestionAnswering:
    """Returns `score`, `start` and `end` (characters of the context) and `answer`, best first.

    Attributes:
        top_k: the number of answers.
        max_answer_length: the longest answer, in tokens.
        seq_length: question and window together, in tokens.
        doc_overlap: tokens that one window shares with the next.
        align_to_words: whether spans are extended to whole words (default: except in kana, Thai, Lao, Khmer and
            Burmese, where the tokenizer treats a whole phrase as a word).
        may_be_empty: whether "" (no answer) is a possible answer, as in SQuAD 2.0.
    """

    encoder: TextEncoder
    top_k: int = 1
    max_answer_length: int = 15
    seq_length: int = _SEQ_LENGTH
    doc_overlap: int = _OVERLAP
    may_be_empty: bool = False
    align_to_words: bool | None = None

    fields = ("question", "context")
    outputs = ("start_logits", "end_logits")
    keeps_sequences = False

    def encode(self, row: Row) -> list[Example]:
        question, context = (
            self.encoder.encode(field(row, "question")).ids,
            self.encoder.encode(field(row, "context")).ids,
        )
        if not context:
            raise UserError("the context contains no words.")
        seq_length = min(self.seq_length, self.encoder.max_length)
        window = seq_length - len(question) - 2 - self.encoder.separators  # [CLS] question [SEP] window [SEP]
        overlap = min(self.doc_overlap, seq_length // 2)
        if window <= overlap and len(context) > window:
            raise UserError(
                f"the question has {len(question)} tokens, which leaves too few tokens for the context: shorten it."
            )
        spans = doc_spans(len(context), window, window - overlap)
        return [self.encoder.example(question, context[start : start + length]) for start, length in spans]

    def reduce(self, example: Example, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        return outputs["start_logits"].copy(), outputs["end_logits"].copy()  # [S] each

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> list[dict[str, Any]]:
        question = len(self.encoder.encode(row["question"]).ids)
        encoding = self.encoder.encode(row["context"])
        first = question + 1 + self.encoder.separators  # where the window begins in its example
        window = len(examples[0].input_ids) - first - 1
        step = window - min(self.doc_overlap, min(self.seq_length, self.encoder.max_length) // 2)
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1.0
        for index, (start_logits, end_logits) in enumerate(reduced):
            spans, empty = self._spans(start_logits, end_logits, first)
            nothing = min(nothing, empty)
            for start, end, score in spans:
                begin, _ = self._edges(row["context"], encoding, index * step + start)
                _, stop = self._edges(row["context"], encoding, index * step + end)
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
        """The best (start, end, score), counted from the window's first token, and the score of no answer."""
        probabilities = []
        for logits in (start_logits, end_logits):
            probabilities.append(softmax(np.concatenate([logits[:1], logits[first:-1]])))  # [CLS] and the window
        starts, ends = (p[1:] for p in probabilities)
        scores = np.triu(np.tril(np.outer(starts, ends), self.max_answer_length - 1)).ravel()
        count = min(2 * self.top_k + 10, len(scores))  # more than top_k, because several spans may cover the same words
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.argsort(-scores[best], kind="stable")]
        pairs = [divmod(int(i), len(ends)) for i in best]
        allowed = range(self.max_answer_length)
        spans = [(s, e, float(scores[i])) for i, (s, e) in zip(best, pairs, strict=True) if e - s in allowed]
        return spans, float(probabilities[0][0] * probabilities[1][0])

    def _edges(self, context: str, encoding: Any, token: int) -> tuple[int, int]:
        """The first character of a token, or of the word that it is part of, and the character after it."""
        begin, stop = encoding.word_to_chars(encoding.token_to_word(token))
        spaced = not _UNSPACED.search(context, begin, stop)
        whole = spaced if self.align_to_words is None else self.align_to_words
        return (begin, stop) if whole else encoding.token_to_chars(token)
