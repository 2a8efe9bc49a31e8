"""From start and end logits to answers: n-best lists and null odds as Google's write_predictions makes them.

Which spans may be answers, and their order, is computed for all windows at once; only the best of each question are
turned into text. F is the number of windows (features), S the sequence length, K the n-best size.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from configs.squad import DecodingFlags
from data.datasets.squad import SquadExample
from data.datasets.squad_features import SquadFeature
from utils.atomic_files import write_atomically
from utils.errors import UserError

_BLOCK = 2048  # windows whose K x K spans are in memory at once
_NO_NULL_SCORE = 1_000_000.0  # a question without any window


@dataclass(frozen=True)
class Decoded:
    """By question id: the answer; the best answers with probability and logits; how much likelier no answer is."""

    predictions: dict[str, str]
    nbest_predictions: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]  # SQuAD 2.0 only: the null score minus the best answer's

    def write(self, directory: Path) -> None:
        """Writes predictions.json, nbest_predictions.json and, for SQuAD 2.0, null_odds.json; removes earlier ones."""
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
    """The answers that the logits mean.

    Where SQuAD 2.0 has no candidate but "no answer" (Google's code ends with a traceback there), the prediction is ""
    and the null odds are the null score itself.

    Args:
        examples: the questions, in order.
        features: all their windows, in order.
        start_logits: [F, S], row i being `features[i]`'s.
        end_logits: [F, S].
        tokenizer: from `load_tokenizer`, the one that made the features.
        settings: see there.
        version_2_with_negative: the questions may have no answer.

    Raises:
        UserError: a logit is not a number, as after a training that diverged.
    """
    if not (np.isfinite(start_logits).all() and np.isfinite(end_logits).all()):
        raise UserError("the model's logits are not finite: its training diverged; try a lower --learning_rate.")
    starts, ends = start_logits.astype(np.float64), end_logits.astype(np.float64)
    owner = np.array([feature.example_index for feature in features], np.int64)  # [F]
    feature_of, start_of, end_of, score_of = _candidates(features, starts, ends, settings)
    order = np.lexsort((-score_of, owner[feature_of]))  # stable: ties stay in Google's order
    feature_of, start_of, end_of, score_of = (a[order] for a in (feature_of, start_of, end_of, score_of))
    bounds = np.searchsorted(owner[feature_of], np.arange(len(examples) + 1)).tolist()
    spans_of = list(zip(feature_of.tolist(), start_of.tolist(), end_of.tolist(), strict=True))
    windows = np.searchsorted(owner, np.arange(len(examples) + 1))
    null_scores = starts[:, 0] + ends[:, 0]
    texts = _Texts(tokenizer, settings.verbose_logging)

    decoded = Decoded({}, {}, {})
    for i, example in enumerate(examples):
        null = _Span("", 0.0, 0.0)
        null_score = _NO_NULL_SCORE
        if windows[i] < windows[i + 1]:
            w = windows[i] + int(null_scores[windows[i] : windows[i + 1]].argmin())
            null = _Span("", float(starts[w, 0]), float(ends[w, 0]))
            null_score = null.score
        first, last = bounds[i], bounds[i + 1]
        null_place: int = -1  # its place among the candidates, after those of the same score
        if version_2_with_negative:
            null_place = int(first + np.searchsorted(-score_of[first:last], -null.score, side="right"))
        nbest: dict[str, _Span] = {}
        for c in range(first, last + 1):
            if c == null_place and len(nbest) < settings.n_best_size:
                nbest.setdefault("", null)
            if c == last or len(nbest) >= settings.n_best_size:
                break
            f, s, e = spans_of[c]
            text = texts.answer(example, features[f], s, e)
            if text not in nbest:
                nbest[text] = _Span(text, float(starts[f, s]), float(ends[f, e]))
        if version_2_with_negative:
            nbest.setdefault("", null)
        spans = list(nbest.values()) or [_Span("empty", 0.0, 0.0)]  # Google's answer where no span is allowed
        decoded.nbest_predictions[example.qas_id] = _with_probabilities(spans)
        if version_2_with_negative:
            answer = next((span for span in spans if span.text), _Span("", 0.0, 0.0))
            null_odds = null_score - answer.start_logit - answer.end_logit
            decoded.null_odds[example.qas_id] = null_odds
            spans = [null if null_odds > settings.null_score_diff_threshold else answer]
        decoded.predictions[example.qas_id] = spans[0].text
    return decoded


def _candidates(
    features: Sequence[SquadFeature], starts: np.ndarray, ends: np.ndarray, settings: DecodingFlags
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Feature, start, end and score of every span that may be an answer, in Google's order."""
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
    """Turns spans of tokens into the original text, keeping what each word looks like to the tokenizer."""

    def __init__(self, tokenizer: Tokenizer, verbose: bool) -> None:
        self._token = {index: token for token, index in tokenizer.get_vocab().items()}
        self._basic = _BasicWords(tokenizer)
        self._verbose = verbose

    def answer(self, example: SquadExample, feature: SquadFeature, start: int, end: int) -> str:
        """The words of the context that hold tokens `start` to `end` (inclusive), less what the span leaves out."""
        pieces = " ".join(map(self._token.__getitem__, feature.input_ids[start : end + 1].tolist()))
        pred_text = " ".join(pieces.replace(" ##", "").replace("##", "").split())
        first_word = feature.token_to_orig_map[start - feature.doc_offset]
        last_word = feature.token_to_orig_map[end - feature.doc_offset]
        words = example.doc_tokens[first_word : last_word + 1]
        tok_text = " ".join(filter(None, map(self._basic.__getitem__, words)))
        text, failure = get_final_text(pred_text, " ".join(words), tok_text)
        if failure and self._verbose:
            print(f"{example.qas_id}: {failure}", file=sys.stderr)
        return text


class _BasicWords(dict[str, str]):
    """Each word as Google's BasicTokenizer writes it, which is before it is cut into pieces; kept once looked up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._normalizer, self._pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer

    def __missing__(self, word: str) -> str:
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalizer.normalize_str(word))
        self[word] = " ".join(piece for piece, _ in pieces)
        return self[word]


def get_final_text(pred_text: str, orig_text: str, tok_text: str) -> tuple[str, str]:
    """The part of the original text that a predicted text stands for, and why the whole was taken, if it was.

    "steve smith" of "Steve Smith's" is "Steve Smith": the texts are aligned character by character, blanks left out
    (Google's get_final_text).

    Args:
        pred_text: the span's tokens, joined.
        orig_text: the words that the span touches.
        tok_text: these words as the basic tokenizer writes them, joined by blanks.
    """
    start = tok_text.find(pred_text)
    if start < 0 or not pred_text:
        return orig_text, f"{pred_text!r} is not in {tok_text!r}"
    if pred_text == tok_text:
        return orig_text, ""
    places = [i for i, character in enumerate(orig_text) if character != " "]
    if len(places) != len(tok_text) - tok_text.count(" "):
        return orig_text, f"{orig_text!r} and {tok_text!r} differ in length without blanks"
    end = start + len(pred_text) - 1
    first = places[start - tok_text.count(" ", 0, start)]
    last = places[end - tok_text.count(" ", 0, end)]
    return orig_text[first : last + 1], ""
