"""Draws the tokens of each pretraining record: Google's `create_instances_from_document`, computed on spans.

A record's segments are spans of a piece's tokens, so drawing them only needs sentence lengths. The tokens are copied at
the end, for many records at once.

Shapes: `R` records, `S` sequence.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import NamedTuple

import numpy as np

from data.preparation.token_store import Piece, TokenStore

SPECIAL_TOKENS_OF_PAIR = 3  # [CLS] A [SEP] B [SEP]
SPECIAL_TOKENS_OF_ONE = 2  # [CLS] A [SEP]
_ROWS_AT_ONCE = 2048


class Rows(NamedTuple):
    """R unmasked records."""

    input_ids: np.ndarray  # [R, S] with [CLS] and [SEP], then 0
    lengths: np.ndarray  # [R, 2]: the number of tokens of A and of B
    labels: np.ndarray  # [R]: 1 if B comes from elsewhere, or A and B are swapped


@dataclass(frozen=True)
class Cutting:
    """How documents are cut into records.

    Attributes:
        objective: "nsp" and "sop" pair segments; "none" makes records of one segment.
        seq_length: S.
        short_seq_prob: the fraction of documents that are cut to a random shorter length.
        cls_id, sep_id: the special tokens.
        packing: "pairs" ends records where documents end; "chunks" cuts the joined documents into full records, from a
            random position on.
        swap: for "sop", whether half of the pairs are swapped (label 1).
    """

    objective: str
    seq_length: int
    short_seq_prob: float
    cls_id: int
    sep_id: int
    packing: str = "pairs"
    swap: bool = True

    @property
    def longest(self) -> int:
        """The number of text tokens that fit into a record."""
        return self.seq_length - special_tokens(self.objective)


def special_tokens(objective: str) -> int:
    """The number of special tokens in a record of an objective."""
    return SPECIAL_TOKENS_OF_ONE if objective == "none" else SPECIAL_TOKENS_OF_PAIR


def draw_rows(rng: np.random.Generator, store: TokenStore, number: int, cutting: Cutting, *, times: int = 1) -> Rows:
    """Cut every document of a piece into records.

    Args:
        rng: the source of every random choice.
        store: the corpus, from which the second segments of negative pairs are drawn.
        number: the index of the piece.
        cutting: the settings.
        times: how often each document is used, each time with different cuts.

    Returns:
        the records, in the order of the documents.
    """
    piece = store.piece(number)
    longest = cutting.longest
    drawn = _cut(rng, piece, cutting, times)
    a_first, a_end, b_first, b_end = np.fromiter(drawn.tokens, np.int64, len(drawn.tokens)).reshape(-1, 4).T
    negatives = np.flatnonzero(b_first == _ELSEWHERE)
    documents = _other_documents(rng, a_first[negatives], piece, store.corpus.documents, number)
    pieces, b_first[negatives], b_end[negatives] = store.sentence_runs(
        documents, rng.random(len(documents)), b_end[negatives]
    )
    # Pairs that are too long lose single tokens, randomly at the front or the back.
    a, b = truncated_lengths(a_end - a_first, b_end - b_first, longest)
    a_first += rng.binomial(a_end - a_first - a, 0.5)
    b_first += rng.binomial(b_end - b_first - b, 0.5)
    far = store.texts(pieces, b_first[negatives], b[negatives])
    b_first[negatives] = len(piece.tokens) + np.cumsum(b[negatives]) - b[negatives]
    dtype = piece.tokens.dtype
    source = b"".join([piece.tokens.tobytes(), *far, bytes(longest * dtype.itemsize)])
    input_ids = np.empty((len(a), cutting.seq_length), dtype)
    segments = np.stack([a_first, a, b_first, b])
    for start in range(0, len(a), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        input_ids[block] = _copy_segments(source, segments[:, block], cutting, dtype)
    return Rows(input_ids, np.stack([a, b], 1), np.array(drawn.labels, np.int32))


def _copy_segments(
    source: bytes, segments: np.ndarray, cutting: Cutting, dtype: np.dtype[np.unsignedinteger]
) -> np.ndarray:
    """The token ids of R records, [R, S].

    Each segment is copied at the maximum length, and the surplus is overwritten, which is several times faster than
    indexing tokens.

    Args:
        source: token ids, followed by enough padding for a copy of the last one.
        segments: [4, R]: where A begins in the source, its length, and the same of B.
        cutting: the settings.
        dtype: of the token ids.
    """
    a_first, a, b_first, b = segments
    records, seq_length, longest = len(a), cutting.seq_length, cutting.longest
    table = np.empty((records, 2 * seq_length), dtype)
    run = np.dtype(f"V{longest * dtype.itemsize}")
    runs: np.ndarray = np.ndarray(len(source) // dtype.itemsize - longest + 1, run, source, strides=(dtype.itemsize,))
    targets: np.ndarray = np.ndarray(table.size - longest + 1, run, table, strides=(dtype.itemsize,))
    begins = np.arange(records) * table.shape[1]
    targets[begins + 1] = runs[a_first]
    if cutting.objective != "none":
        targets[begins + a + 2] = runs[b_first]
    flat = table.ravel()
    flat[begins], flat[begins + a + 1] = cutting.cls_id, cutting.sep_id
    lengths = a + b + special_tokens(cutting.objective)
    flat[begins + lengths - 1] = cutting.sep_id
    used = np.arange(seq_length) < lengths[:, None]
    return np.where(used, table[:, :seq_length], dtype.type(0))


class _Spans(NamedTuple):
    """The spans of records, as flat lists, because there are many."""

    # Four entries per record: start and end of A, start and end of B. B is 0, 0 if there is none, or _ELSEWHERE and
    # the wanted length if it comes from another document.
    tokens: list[int]
    labels: list[int]


_ELSEWHERE = -1


def _cut(rng: np.random.Generator, piece: Piece, cutting: Cutting, times: int) -> _Spans:
    """Cut a piece's documents into spans of tokens, `times` times."""
    share = _shares(rng).__next__
    drawn = _Spans([], [])
    for _ in range(times):
        if cutting.packing == "chunks":
            _cut_chunks(drawn, len(piece.tokens), cutting.longest, share)
        elif cutting.objective == "nsp":
            _cut_pairs(drawn, piece, cutting, share)
        else:
            _cut_in_order(drawn, piece, cutting, share)
    return drawn


def _cut_chunks(drawn: _Spans, tokens: int, longest: int, share: Callable[[], float]) -> None:
    """Cuts the joined documents into full records, starting at a random position."""
    first = int(share() * (1 + min(longest, tokens - longest)))
    for begin in range(first, tokens - longest + 1, longest):
        drawn.tokens.extend((begin, begin + longest, 0, 0))
        drawn.labels.append(0)


def _cut_in_order(drawn: _Spans, piece: Piece, cutting: Cutting, share: Callable[[], float]) -> None:
    """Makes pairs of adjacent segments, half of them swapped, or single segments."""
    starts, pairs = piece.sentence_starts.tolist(), cutting.objective == "sop"
    for here, stop in pairwise(piece.document_starts.tolist()):
        target = _target_length(cutting, share)
        while here < stop:
            # The sentences up to `end` reach the target length, or are the last of the document.
            end = bisect_left(starts, starts[here] + target, here + 1, stop)
            if pairs:
                end = max(end, min(here + 2, stop))
                if end - here < 2:
                    break  # a single sentence has no order
                first, middle, last = starts[here], starts[here + 1 + int(share() * (end - here - 1))], starts[end]
                swapped = cutting.swap and share() < 0.5
                drawn.tokens.extend((middle, last, first, middle) if swapped else (first, middle, middle, last))
                drawn.labels.append(int(swapped))
            else:
                drawn.tokens.extend((starts[here], starts[end], 0, 0))
                drawn.labels.append(0)
            here = end


def _cut_pairs(drawn: _Spans, piece: Piece, cutting: Cutting, share: Callable[[], float]) -> None:
    """Makes next-sentence pairs: B follows A, or comes from another document of the corpus."""
    starts = piece.sentence_starts.tolist()
    tokens, labels = drawn
    for here, stop in pairwise(piece.document_starts.tolist()):
        target = _target_length(cutting, share)
        while here < stop:
            end = bisect_left(starts, starts[here] + target, here + 1, stop)
            a_end = here + 1 + int(share() * (end - here - 1)) if end - here > 1 else end
            first, middle = starts[here], starts[a_end]
            if end - here > 1 and share() < 0.5:
                tokens += (first, middle, middle, starts[end])
                labels.append(0)
                here = end
            else:
                tokens += (first, middle, _ELSEWHERE, target - middle + first)
                labels.append(1)
                here = a_end  # the unused sentences of B start the next pair


def _other_documents(
    rng: np.random.Generator, tokens: np.ndarray, piece: Piece, corpus_documents: np.ndarray, number: int
) -> np.ndarray:
    """int64 [N]: for each of N tokens of a piece, a random document of the corpus other than its own."""
    own = np.searchsorted(piece.sentence_starts[piece.document_starts], tokens, side="right") - 1
    own += corpus_documents[number]
    drawn = rng.integers(0, corpus_documents[-1], len(own))
    for _ in range(9):  # as in Google's code, all ten tries may find the same document
        same = np.flatnonzero(drawn == own)
        drawn[same] = rng.integers(0, corpus_documents[-1], len(same))
    return drawn


def _target_length(cutting: Cutting, share: Callable[[], float]) -> int:
    """The target length of a document's records: usually the maximum."""
    return 2 + int(share() * (cutting.longest - 1)) if share() < cutting.short_seq_prob else cutting.longest


def _shares(rng: np.random.Generator) -> Iterator[float]:
    """Random numbers in [0, 1), drawn in bulk."""
    return chain.from_iterable(rng.random(4096).tolist() for _ in repeat(None))


def truncated_lengths(a: np.ndarray, b: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths after removing tokens from the longer segment (from B if they are equal) until the sum fits."""
    excess = np.maximum(a + b - longest, 0)
    apart = np.minimum(np.abs(a - b), excess)  # removed from the longer segment until both are equal
    rest = excess - apart
    a_cut = np.where(a > b, apart, 0) + rest // 2
    return a - a_cut, b - (excess - a_cut)
