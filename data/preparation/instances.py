"""Which tokens a pretraining record holds: Google's `create_instances_from_document`, without touching the tokens.

A record's segments are runs of a piece's tokens, so drawing them needs the sentences' lengths only. What the segments
hold is copied at the end, for many records at once.

Shapes: `R` records, `S` sequence.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import chain, pairwise, repeat
from typing import NamedTuple

import numpy as np

from data.preparation.token_store import Piece, TokenStore

SPECIAL_TOKENS_OF_PAIR = 3  # [CLS] A [SEP] B [SEP]
SPECIAL_TOKENS_OF_ONE = 2  # [CLS] A [SEP]
_ROWS_AT_ONCE = 2048


class Rows(NamedTuple):
    """R unmasked records."""

    input_ids: np.ndarray  # [R, S] with [CLS] and [SEP], 0 after the end
    lengths: np.ndarray  # [R, 2]: tokens of A and of B
    labels: np.ndarray  # [R]: 1 where B is from elsewhere, or A and B are swapped


def special_tokens(objective: str) -> int:
    """How many special tokens a record of an objective has."""
    return SPECIAL_TOKENS_OF_ONE if objective == "none" else SPECIAL_TOKENS_OF_PAIR


def draw_rows(
    rng: np.random.Generator,
    store: TokenStore,
    number: int,
    *,
    times: int = 1,
    objective: str,
    packing: str = "pairs",
    swap: bool = True,
    seq_length: int,
    short_seq_prob: float,
    cls_id: int,
    sep_id: int,
) -> Rows:
    """Cuts every document of a piece into records, each time anew.

    Args:
        rng: where every random choice comes from.
        store: the corpus; next-sentence negatives come from all of it.
        number: which piece.
        times: how often.
        objective: "nsp" and "sop" pair segments; "none" takes one segment a record.
        packing: "chunks" cuts the joined documents into full records, from a random place on.
        swap: for "sop", whether half of the pairs are swapped (label 1), or none is.
        seq_length: S.
        short_seq_prob: share of documents that are cut to a random shorter length.
        cls_id, sep_id: the special tokens.

    Returns:
        the records, in the documents' order.
    """
    piece = store.piece(number)
    longest = seq_length - special_tokens(objective)
    share = _shares(rng).__next__
    drawn = _Spans([], [])
    for _ in range(times):
        if packing == "chunks":
            _cut_chunks(drawn, len(piece.tokens), longest, share)
        elif objective == "nsp":
            _cut_pairs(drawn, piece, longest, short_seq_prob, share)
        else:
            _cut_in_order(drawn, piece, objective == "sop", swap, longest, short_seq_prob, share)
    a_first, a_end, b_first, b_end = np.fromiter(drawn.tokens, np.int64, len(drawn.tokens)).reshape(-1, 4).T
    negatives = np.flatnonzero(b_first == _ELSEWHERE)
    documents = _other_documents(rng, a_first[negatives], piece, store.corpus.documents, number)
    pieces, b_first[negatives], b_end[negatives] = store.sentence_runs(
        documents, rng.random(len(documents)), b_end[negatives]
    )
    # What is too long loses single tokens, each at the front or the back at random.
    a, b = truncated_lengths(a_end - a_first, b_end - b_first, longest)
    a_first += rng.binomial(a_end - a_first - a, 0.5)
    b_first += rng.binomial(b_end - b_first - b, 0.5)
    far = store.texts(pieces, b_first[negatives], b[negatives])
    b_first[negatives] = len(piece.tokens) + np.cumsum(b[negatives]) - b[negatives]
    kind = piece.tokens.dtype
    source = b"".join([piece.tokens.tobytes(), *far, bytes(longest * kind.itemsize)])
    input_ids = np.empty((len(a), seq_length), kind)
    for start in range(0, len(a), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        input_ids[block] = _put_together(
            source, a_first[block], a[block], b_first[block], b[block], longest, objective, cls_id, sep_id, kind
        )
    return Rows(input_ids, np.stack([a, b], 1), np.array(drawn.labels, np.int32))


def _put_together(
    source: bytes, a_first: np.ndarray, a: np.ndarray, b_first: np.ndarray, b: np.ndarray, longest: int, objective: str,
    cls_id: int, sep_id: int, kind: np.dtype[np.unsignedinteger],
) -> np.ndarray:  # fmt: skip
    """`[CLS] A [SEP] B [SEP]` of R records whose segments are at these places, and of these lengths, of the source.

    As many tokens as a record may have are copied for each segment, in one piece, and what is too much is overwritten:
    that is several times as fast as indexing tokens.
    """
    records, seq_length = len(a), longest + special_tokens(objective)
    table = np.empty((records, 2 * seq_length), kind)
    run = np.dtype(f"V{longest * kind.itemsize}")
    runs: np.ndarray = np.ndarray(len(source) // kind.itemsize - longest + 1, run, source, strides=(kind.itemsize,))
    places: np.ndarray = np.ndarray(table.size - longest + 1, run, table, strides=(kind.itemsize,))
    begins = np.arange(records) * table.shape[1]
    places[begins + 1] = runs[a_first]
    if objective != "none":
        places[begins + a + 2] = runs[b_first]
    flat = table.ravel()
    flat[begins], flat[begins + a + 1] = cls_id, sep_id
    lengths = a + b + special_tokens(objective)
    flat[begins + lengths - 1] = sep_id
    used = np.arange(seq_length) < lengths[:, None]
    return np.where(used, table[:, :seq_length], kind.type(0))


class _Spans(NamedTuple):
    """What the records are cut from; lists without an entry per record, because there are many."""

    # Four a record: A's first token and the one after its last, and B's: 0, 0 for none, or _ELSEWHERE and how many.
    tokens: list[int]
    labels: list[int]


_ELSEWHERE = -1


def _cut_chunks(drawn: _Spans, tokens: int, longest: int, share: Callable[[], float]) -> None:
    """Full records of joined documents, from a random place on."""
    first = int(share() * (1 + min(longest, tokens - longest)))
    for here in range(first, tokens - longest + 1, longest):
        drawn.tokens.extend((here, here + longest, 0, 0))
        drawn.labels.append(0)


def _cut_in_order(
    drawn: _Spans,
    piece: Piece,
    pairs: bool,
    swap: bool,
    longest: int,
    short_seq_prob: float,
    share: Callable[[], float],
) -> None:
    """Neighbouring segments, half of the pairs swapped, or single segments."""
    starts = piece.sentence_starts.tolist()
    for here, stop in pairwise(piece.document_starts.tolist()):
        target = _target_length(longest, short_seq_prob, share)
        while here < stop:
            # The sentences up to this reach the target length, or are the document's last.
            end = bisect_left(starts, starts[here] + target, here + 1, stop)
            if pairs:
                end = max(end, min(here + 2, stop))
                if end - here < 2:
                    break  # a sentence alone has no order
                first, middle, last = starts[here], starts[here + 1 + int(share() * (end - here - 1))], starts[end]
                swapped = swap and share() < 0.5
                drawn.tokens.extend((middle, last, first, middle) if swapped else (first, middle, middle, last))
                drawn.labels.append(int(swapped))
            else:
                drawn.tokens.extend((starts[here], starts[end], 0, 0))
                drawn.labels.append(0)
            here = end


def _cut_pairs(drawn: _Spans, piece: Piece, longest: int, short_seq_prob: float, share: Callable[[], float]) -> None:
    """Next-sentence pairs: B follows A, or is to come from another document of the corpus."""
    starts = piece.sentence_starts.tolist()
    tokens, labels = drawn
    for here, stop in pairwise(piece.document_starts.tolist()):
        target = _target_length(longest, short_seq_prob, share)
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
                here = a_end  # sentences that B did not use come next


def _other_documents(
    rng: np.random.Generator, tokens: np.ndarray, piece: Piece, corpus_documents: np.ndarray, number: int
) -> np.ndarray:
    """For each of N tokens of a piece a document of the corpus, any one but the token's own, int64 [N]."""
    own = np.searchsorted(piece.sentence_starts[piece.document_starts], tokens, side="right") - 1
    own += corpus_documents[number]
    drawn = rng.integers(0, corpus_documents[-1], len(own))
    for _ in range(9):  # as in Google's code, in ten tries it may remain the same document
        same = np.flatnonzero(drawn == own)
        drawn[same] = rng.integers(0, corpus_documents[-1], len(same))
    return drawn


def _target_length(longest: int, short_seq_prob: float, share: Callable[[], float]) -> int:
    """How many tokens the records of a document are to have: mostly as many as fit."""
    return 2 + int(share() * (longest - 1)) if share() < short_seq_prob else longest


def _shares(rng: np.random.Generator) -> Iterator[float]:
    """Random numbers from 0 to below 1, fetched in bulk."""
    return chain.from_iterable(rng.random(4096).tolist() for _ in repeat(None))


def truncated_lengths(a: np.ndarray, b: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths after removing single tokens from the longer segment, B where they are equal, until the sum fits."""
    excess = np.maximum(a + b - longest, 0)
    apart = np.minimum(np.abs(a - b), excess)  # removed from the longer one before they are equal
    rest = excess - apart
    a_cut = np.where(a > b, apart, 0) + rest // 2
    return a - a_cut, b - (excess - a_cut)
