"""Converts SQuAD questions to features, with the same windows as Google's run_squad.py.

If a question and its context do not fit into one sequence, they become several features: windows over the context
that start `doc_stride` tokens apart. Google tokenizes a context again for every question; here it is tokenized once.

S is the sequence length, L the number of a context's tokens in one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby

import numpy as np

from configs.squad import FeatureFlags
from conversion.tokenizer_files import read_vocabulary
from data.records.features import SEQUENCE, padding
from data.squad.examples import SquadExample
from data.tokenization import bulk_tokenizer
from utils.worker_pool import in_order, in_processes

FIRST_UNIQUE_ID = 1_000_000_000  # a feature's unique id is this plus its index in the data set
_WORDS_PER_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class SquadFeature:
    """One window of one question: `[CLS] question [SEP] window [SEP]`, without padding; the names are Google's.

    The window's tokens begin at `doc_offset`. For each of them, `token_to_orig_map` is the index of its word in the
    context, and `token_is_max_context` is True if no other window gives it more context.
    """

    example_index: int
    doc_span_index: int
    input_ids: np.ndarray  # [2 + question + L + 1] int32
    doc_offset: int
    token_to_orig_map: np.ndarray  # [L] int32
    token_is_max_context: np.ndarray  # [L] bool
    start_position: int  # in input_ids; 0 if the answer is not in this window
    end_position: int

    def record(self, seq_length: int) -> dict[str, np.ndarray]:
        """The feature as a record: input_ids, input_mask and segment_ids padded to [S], the positions [1]."""
        length = len(self.input_ids)
        input_ids, input_mask, segment_ids = (padding(name, 1, seq_length)[0] for name in SEQUENCE)
        input_ids[:length] = self.input_ids
        input_mask[:length] = 1
        segment_ids[self.doc_offset : length] = 1
        return {
            "input_ids": input_ids,
            "input_mask": input_mask,
            "segment_ids": segment_ids,
            "start_positions": np.array([self.start_position], np.int32),
            "end_positions": np.array([self.end_position], np.int32),
        }


def convert_examples_to_features(
    examples: Sequence[SquadExample], settings: FeatureFlags, *, num_workers: int | None = None
) -> Iterator[SquadFeature]:
    """Converts all examples to windows, in order; a feature's unique id is FIRST_UNIQUE_ID plus its index.

    Args:
        examples: from `read_squad_examples`; those without an answer get positions 0.
        settings: the tokenizer, and Google's three lengths.
        num_workers: number of processes (default: one per core).

    Raises:
        WorkerLostError: a worker process was killed.
    """
    chunks = [(settings, first, chunk) for first, chunk in _chunks(examples)]
    # OneFlow's threads, which this process may have, do not survive a fork.
    for features in in_order(in_processes(_features_of, chunks, num_workers, fork=False)):
        yield from features


def _chunks(examples: Sequence[SquadExample]) -> Iterator[tuple[int, Sequence[SquadExample]]]:
    """Yields groups of consecutive examples with similar amounts of work, with the index of the first."""
    first = words = 0
    for number, example in enumerate(examples, 1):
        words += len(example.doc_tokens)
        if words >= _WORDS_PER_CHUNK or number == len(examples):
            yield first, examples[first:number]
            first, words = number, 0


def doc_spans(num_tokens: int, max_tokens: int, doc_stride: int) -> list[tuple[int, int]]:
    """The windows (start, length) over a context of `num_tokens`, each of at most `max_tokens`."""
    stride = min(max_tokens, doc_stride)
    windows = max(0, -(-(num_tokens - max_tokens) // stride)) + (num_tokens > 0)
    return [(i * stride, min(max_tokens, num_tokens - i * stride)) for i in range(windows)]


def max_context(spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each window, which of its tokens have their maximum context there, bool [L] (Google's _check_is_max_context).

    A token's score in a window is the smaller of its left and right context, plus a hundredth of the window's length.
    If several windows have the highest score, the first counts.
    """
    if len(spans) == 1:
        return [np.ones(spans[0][1], bool)]
    best_score = np.full(spans[-1][0] + spans[-1][1] if spans else 0, -np.inf)
    best_window = np.zeros(len(best_score), np.int64)
    for index, (start, length) in enumerate(spans):
        left = np.arange(length)
        score = np.minimum(left, length - 1 - left) + 0.01 * length
        here = slice(start, start + length)
        better = score > best_score[here]
        best_window[here][better] = index
        best_score[here][better] = score[better]
    return [best_window[start : start + length] == index for index, (start, length) in enumerate(spans)]


def _features_of(settings: FeatureFlags, first_index: int, examples: Sequence[SquadExample]) -> list[SquadFeature]:
    return list(_converter(settings).features(first_index, examples))


@lru_cache(maxsize=1)
def _converter(settings: FeatureFlags) -> _Converter:
    """The converter of this process, cached because its tokenizer becomes faster with every word it has seen."""
    return _Converter(settings)


class _Converter:
    """Converts examples to features."""

    def __init__(self, settings: FeatureFlags) -> None:
        self.settings = settings
        vocabulary = read_vocabulary(settings.vocab_file or "", settings.do_lower_case)
        vocab = vocabulary.ids
        self.tokenizer, self.separators = bulk_tokenizer(vocabulary), vocabulary.separators
        self.cls, self.sep = vocab["[CLS]"], vocab["[SEP]"]

    def features(self, first_index: int, examples: Sequence[SquadExample]) -> Iterator[SquadFeature]:
        """The windows of consecutive examples, the first of which has this index."""
        queries = self._tokenize([example.question_text for example in examples])
        answers = self._tokenize([self._space_before(example) + example.orig_answer_text for example in examples])
        before = [len(ids) for ids in self._tokenize([example.before_answer for example in examples])]
        numbers = range(first_index, first_index + len(examples))
        rows = zip(numbers, examples, queries, answers, before, strict=True)
        for _, paragraph in groupby(rows, key=lambda row: id(row[1].doc_tokens)):
            context: _Context | None = None
            for index, example, query, answer, tokens_before in paragraph:
                context = context or self._context(example.doc_tokens)
                span = _answer_span(example, context, answer, tokens_before)
                yield from self._windows(index, query[: self.settings.max_query_length], context, span)

    def _space_before(self, example: SquadExample) -> str:
        """The space that the answer's first token contains in the context."""
        words = example.orig_answer_text.split(maxsplit=1)
        if not (self.tokenizer.words_have_spaces and words and example.start_position > 0):
            return ""
        return " " if example.doc_tokens[example.start_position].startswith(words[0]) else ""

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        ids, counts = self.tokenizer.encode(texts)
        return np.split(ids, counts.cumsum()[:-1])

    def _context(self, doc_tokens: list[str]) -> _Context:
        ids, counts = self.tokenizer.encode_words([doc_tokens])
        return _Context(
            ids=ids,
            word=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            first=np.concatenate([[0], counts.cumsum()]),
        )

    def _windows(
        self, index: int, query: np.ndarray, context: _Context, span: tuple[int, int]
    ) -> Iterator[SquadFeature]:
        """The windows of one example; `span` is the first and last token of the answer in the context, -1 for none."""
        max_tokens = self.settings.max_seq_length - len(query) - 2 - self.separators  # [CLS], [SEP] and [SEP]
        spans = doc_spans(len(context.ids), max_tokens, self.settings.doc_stride)
        head = np.concatenate([[self.cls], query, [self.sep] * self.separators])
        tok_start, tok_end = span
        for i, ((start, length), best) in enumerate(zip(spans, max_context(spans), strict=True)):
            here = slice(start, start + length)
            answer_is_here = start <= tok_start and tok_end < start + length
            shift = len(head) - start
            yield SquadFeature(
                example_index=index,
                doc_span_index=i,
                input_ids=np.concatenate([head, context.ids[here], [self.sep]], dtype=np.int32),
                doc_offset=len(head),
                token_to_orig_map=context.word[here],
                token_is_max_context=best,
                start_position=tok_start + shift if answer_is_here else 0,
                end_position=tok_end + shift if answer_is_here else 0,
            )


@dataclass(frozen=True)
class _Context:
    ids: np.ndarray  # [tokens] int32
    word: np.ndarray  # [tokens] int32, each token's word
    first: np.ndarray  # [words + 1], each word's first token


def _answer_span(example: SquadExample, context: _Context, answer: np.ndarray, tokens_before: int) -> tuple[int, int]:
    """The first and the last token of the answer in the context; -1, -1 if there is none."""
    if example.start_position < 0:
        return -1, -1
    start = int(context.first[example.start_position])
    end = int(context.first[example.end_position + 1]) - 1
    return improve_answer_span(context.ids, start, end, answer, tokens_before)


def improve_answer_span(
    doc_ids: np.ndarray, start: int, end: int, answer_ids: np.ndarray, tokens_before: int = 0
) -> tuple[int, int]:
    """The first occurrence of the answer's tokens within `start` to `end` (inclusive), else `start` and `end`.

    An answer can be part of a word, such as "1895" of "(1895-1943)." (Google's _improve_answer_span). In text without
    spaces a word is a sentence or more, so the search starts at the answer's offset, after `tokens_before` tokens.
    """
    candidates = range(start, end - len(answer_ids) + 2 if len(answer_ids) else start)
    for new_start in chain(candidates[tokens_before:], candidates[:tokens_before]):
        if np.array_equal(doc_ids[new_start : new_start + len(answer_ids)], answer_ids):
            return new_start, new_start + len(answer_ids) - 1
    return start, end
