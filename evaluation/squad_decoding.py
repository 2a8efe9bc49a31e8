"""Decodes start and end logits into answers, n-best lists and null odds, equal to Google's write_predictions.

numpy finds and sorts the candidate spans of all windows; only the best spans of each question are converted to text.

Shapes: `F` windows (features), `S` sequence, `K` n-best size.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from configs.squad import DecodingFlags
from data.squad import SquadExample, SquadFeature
from data.tokenization import is_byte_level
from utils.atomic_files import write_atomically
from utils.errors import UserError

_BLOCK = 2048  # number of windows whose K x K spans are in memory at once
_NO_NULL_SCORE = 1_000_000.0  # null score of a question without windows, as in Google's code


@dataclass(frozen=True)
class Decoded:
    """The decoded answers, by question id."""

    predictions: dict[str, str]  # the answer
    nbest_predictions: dict[str, list[dict[str, Any]]]  # the best answers with their probabilities and logits
    null_odds: dict[str, float]  # SQuAD 2.0 only: the null score minus the score of the best answer

    def write(self, directory: Path) -> None:
        """Write predictions.json, nbest_predictions.json and, for SQuAD 2.0, null_odds.json; remove earlier ones."""
        directory.mkdir(parents=True, exist_ok=True)
        for field in dataclasses.fields(self):
            content, path = getattr(self, field.name), directory / f"{field.name}.json"
            if content:
                write_atomically(path, json.dumps(content, indent=4).encode() + b"\n")
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Span:
    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


_NO_ANSWER = _Span("", 0.0, 0.0)


def decode_predictions(
    examples: Sequence[SquadExample],
    features: Sequence[SquadFeature],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    tokenizer: Tokenizer,
    settings: DecodingFlags,
    *,
    version_2_with_negative: bool,
) -> Decoded:
    """Decode the answers of all questions.

    If the only candidate of a SQuAD 2.0 question is "no answer" (where Google's code fails), the prediction is "" and
    the null odds are the null score itself.

    Args:
        examples: the questions, in order.
        features: the windows of all questions, in order.
        start_logits: [F, S]; row i belongs to `features[i]`.
        end_logits: [F, S].
        tokenizer: the tokenizer that made the features, from `load_tokenizer`.
        settings: see `DecodingFlags`.
        version_2_with_negative: whether questions may have no answer.

    Raises:
        UserError: a logit is NaN or infinite, because training diverged.
    """
    if not (np.isfinite(start_logits).all() and np.isfinite(end_logits).all()):
        raise UserError("the model's logits are not finite: training diverged. Train with a lower --learning_rate.")
    starts, ends = start_logits.astype(np.float64), end_logits.astype(np.float64)
    example_of = np.array([feature.example_index for feature in features], np.int64)  # [F]
    windows, starts_of, ends_of, scores = _candidates(features, starts, ends, settings)
    order = np.lexsort((-scores, example_of[windows]))  # stable: ties stay in Google's order
    windows, starts_of, ends_of, scores = (array[order] for array in (windows, starts_of, ends_of, scores))
    bounds = np.searchsorted(example_of[windows], np.arange(len(examples) + 1)).tolist()  # candidates of each question
    window_bounds = np.searchsorted(example_of, np.arange(len(examples) + 1)).tolist()
    candidates = list(zip(windows.tolist(), starts_of.tolist(), ends_of.tolist(), strict=True))
    texts = _Texts(tokenizer, settings.verbose_logging)

    decoded = Decoded({}, {}, {})
    for i, example in enumerate(examples):

        def span_of(window: int, start: int, end: int, example: SquadExample = example) -> _Span:
            text = texts.answer(example, features[window], start, end)
            return _Span(text, float(starts[window, start]), float(ends[window, end]))

        own, own_windows = slice(bounds[i], bounds[i + 1]), slice(window_bounds[i], window_bounds[i + 1])
        null, null_score = _null_span(starts[own_windows, 0], ends[own_windows, 0])
        in_list = null if version_2_with_negative else None
        spans = _n_best(candidates[own], scores[own], span_of, in_list, settings.n_best_size)
        decoded.nbest_predictions[example.qas_id] = _with_probabilities(spans)
        decoded.predictions[example.qas_id] = spans[0].text
        if version_2_with_negative:
            answer = next((span for span in spans if span.text), _NO_ANSWER)
            null_odds = null_score - answer.start_logit - answer.end_logit
            decoded.null_odds[example.qas_id] = null_odds
            answered = null_odds <= settings.null_score_diff_threshold
            decoded.predictions[example.qas_id] = answer.text if answered else ""
    return decoded


def _null_span(start_logits: np.ndarray, end_logits: np.ndarray) -> tuple[_Span, float]:
    """The "no answer" of the window with the lowest null score, and that score; inputs are the [CLS] logits."""
    if not len(start_logits):
        return _NO_ANSWER, _NO_NULL_SCORE
    lowest = int((start_logits + end_logits).argmin())
    span = _Span("", float(start_logits[lowest]), float(end_logits[lowest]))
    return span, span.score


def _n_best(
    candidates: Sequence[tuple[int, int, int]],
    scores: np.ndarray,
    span_of: Callable[[int, int, int], _Span],
    null: _Span | None,
    size: int,
) -> list[_Span]:
    """The best `size` spans of one question with different texts.

    Args:
        candidates: window, start and end of each candidate, best first.
        scores: the scores of the candidates.
        span_of: converts a candidate to a span; called as rarely as possible, because extracting text is slow.
        null: "no answer"; ranked among the candidates, or added at the end. None for SQuAD 1.1.
        size: the n-best size.
    """
    ranked: list[tuple[int, int, int] | None] = list(candidates)
    if null is not None:
        ranked.insert(int(np.searchsorted(-scores, -null.score, side="right")), None)
    nbest: dict[str, _Span] = {}
    for candidate in ranked:
        if len(nbest) >= size:
            break
        span = null if candidate is None else span_of(*candidate)
        if span is not None:
            nbest.setdefault(span.text, span)
    if null is not None:
        nbest.setdefault("", null)
    return list(nbest.values()) or [_Span("empty", 0.0, 0.0)]  # as in Google's code if no span is allowed


def _candidates(
    features: Sequence[SquadFeature], starts: np.ndarray, ends: np.ndarray, settings: DecodingFlags
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Window, start, end and score of every span that may be an answer, in Google's order."""
    count, seq_length = starts.shape
    is_document = np.zeros((count, seq_length), bool)
    is_max_context = np.zeros((count, seq_length), bool)
    for row, feature in enumerate(features):
        here = slice(feature.doc_offset, feature.doc_offset + len(feature.token_to_orig_map))
        is_document[row, here] = True
        is_max_context[row, here] = feature.token_is_max_context
    found = []
    for first in range(0, count, _BLOCK):
        here = slice(first, first + _BLOCK)
        s = np.argsort(-starts[here], axis=1, kind="stable")[:, : settings.n_best_size]  # [F, K]
        e = np.argsort(-ends[here], axis=1, kind="stable")[:, : settings.n_best_size]
        allowed = np.take_along_axis(is_max_context[here], s, 1)[:, :, None]
        allowed = allowed & np.take_along_axis(is_document[here], e, 1)[:, None, :]  # [F, K, K]
        length = e[:, None, :] - s[:, :, None] + 1
        allowed &= (length >= 1) & (length <= settings.max_answer_length)
        f, i, j = np.nonzero(allowed)
        s, e, f = s[f, i], e[f, j], f + first
        found.append((f, s, e, starts[f, s] + ends[f, e]))
    if not found:
        return (*(np.zeros(0, np.int64) for _ in range(3)), np.zeros(0))  # type: ignore[return-value]
    f, s, e, score = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return f, s, e, score


def _with_probabilities(spans: Sequence[_Span]) -> list[dict[str, Any]]:
    best = max(span.score for span in spans)
    weights = [math.exp(span.score - best) for span in spans]
    total = sum(weights)
    return [
        {"text": s.text, "probability": w / total, "start_logit": s.start_logit, "end_logit": s.end_logit}
        for s, w in zip(spans, weights, strict=True)
    ]


class _Texts:
    """Converts spans of tokens to the original text."""

    def __init__(self, tokenizer: Tokenizer, verbose: bool) -> None:
        self._tokenizer = tokenizer if is_byte_level(tokenizer) else None
        self._token = {index: token for token, index in tokenizer.get_vocab().items()}
        self._basic = _BasicWords(tokenizer)
        self._verbose = verbose

    def answer(self, example: SquadExample, feature: SquadFeature, start: int, end: int) -> str:
        """The original text of the tokens `start` to `end` (inclusive)."""
        ids = feature.input_ids[start : end + 1].tolist()
        first_word = feature.token_to_orig_map[start - feature.doc_offset]
        last_word = feature.token_to_orig_map[end - feature.doc_offset]
        words = example.doc_tokens[first_word : last_word + 1]
        if self._tokenizer:  # such tokens are pieces of the text itself
            pieces, tok_text = self._tokenizer.decode(ids), " ".join(words)
        else:
            pieces = " ".join(map(self._token.__getitem__, ids)).replace(" ##", "").replace("##", "")
            tok_text = " ".join(filter(None, map(self._basic.__getitem__, words)))
        pred_text = " ".join(pieces.split())
        text, failure = get_final_text(pred_text, " ".join(words), tok_text)
        if failure and self._verbose:
            print(f"{example.qas_id}: {failure}", file=sys.stderr)
        return text


class _BasicWords(dict[str, str]):
    """{word: its tokens by Google's BasicTokenizer, joined by spaces}, computed on first use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._normalizer, self._pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer

    def __missing__(self, word: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalizer.normalize_str(word))
        self[word] = " ".join(piece for piece, _ in pieces)
        return self[word]


def get_final_text(pred_text: str, orig_text: str, tok_text: str) -> tuple[str, str]:
    """The part of the original text that corresponds to a predicted text (Google's get_final_text).

    For example, "steve smith" in "Steve Smith's" is "Steve Smith". The texts are aligned by their non-space characters.

    Args:
        pred_text: the tokens of the span, joined.
        orig_text: the words that contain the span.
        tok_text: the tokens of these words by the basic tokenizer, joined by spaces.

    Returns:
        The text, and "" or the reason why it is the whole `orig_text`.
    """
    start = tok_text.find(pred_text)
    if start < 0 or not pred_text:
        return orig_text, f"{pred_text!r} is not in {tok_text!r}"
    if pred_text == tok_text:
        return orig_text, ""
    offsets = [i for i, character in enumerate(orig_text) if character != " "]
    if len(offsets) != len(tok_text) - tok_text.count(" "):
        return orig_text, f"{orig_text!r} and {tok_text!r} have different numbers of non-blank characters"
    end = start + len(pred_text) - 1
    first = offsets[start - tok_text.count(" ", 0, start)]
    last = offsets[end - tok_text.count(" ", 0, end)]
    return orig_text[first : last + 1], ""
