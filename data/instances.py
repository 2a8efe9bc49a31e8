"""Which tokens a pretraining record holds: Google's `create_instances_from_document`, without touching the tokens.

A record's segments are runs of a piece's tokens, so drawing them needs the sentences' lengths only. What a segment
holds is copied at the end, for all records of a piece at once.

Shapes: `R` records, `S` sequence.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.token_store import Piece, TokenStore

SPECIAL_TOKENS_OF_PAIR = 3  # [CLS] A [SEP] B [SEP]
SPECIAL_TOKENS_OF_ONE = 2  # [CLS] A [SEP]


class Rows(NamedTuple):
    """R unmasked records."""

    input_ids: np.ndarray  # [R, S] with [CLS] and [SEP], 0 after the end
    lengths: np.ndarray  # [R, 2]: tokens of A and of B
    labels: np.ndarray  # [R]: 1 where B is from elsewhere, or A and B are swapped


def special_tokens(objective: str) -> int:
    """How many special tokens a record of an objective has."""
    return SPECIAL_TOKENS_OF_ONE if objective == "none" else SPECIAL_TOKENS_OF_PAIR


def _shares(rng: np.random.Generator) -> Iterator[float]:
    """Random numbers from 0 to below 1, fetched in bulk."""
    while True:
        yield from rng.random(4096).tolist()


def draw_rows(
    rng: np.random.Generator,
    store: TokenStore,
    number: int,
    *,
    objective: str,
    packing: str = "pairs",
    swap: bool = True,
    seq_length: int,
    short_seq_prob: float,
    cls_id: int,
    sep_id: int,
) -> Rows:
    """Cuts every document of a piece into records, once.

    Args:
        rng: where every random choice comes from.
        store: the corpus; next-sentence negatives come from all of it.
        number: which piece.
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
    first_document = int(store.corpus.documents[number])
    documents = int(store.corpus.documents[-1])
    share = _shares(rng).__next__
    special = special_tokens(objective)
    longest = seq_length - special
    spans: list[tuple[int, int, int, int, int]] = []  # A's tokens, B's piece and tokens (piece -1: no B)
    labels: list[int] = []
    starts: list[int] = piece.sentence_starts.tolist()
    borders: list[int] = piece.document_starts.tolist()
    if packing == "chunks":
        tokens = len(piece.tokens)
        firsts = range(int(share() * (1 + min(longest, tokens - longest))), tokens - longest + 1, longest)
        spans = [(first, first + longest, -1, 0, 0) for first in firsts]
        labels, borders = [0] * len(spans), []
    for document, (here, stop) in enumerate(pairwise(borders), first_document):
        target = 2 + int(share() * (longest - 1)) if share() < short_seq_prob else longest
        while here < stop:
            # The sentences [here, end) reach the target length, or are the document's last.
            end = min(bisect_left(starts, starts[here] + target, here + 1, stop + 1), stop)
            if objective == "none":
                spans.append((starts[here], starts[end], -1, 0, 0))
                labels.append(0)
                here = end
                continue
            if objective == "sop":
                end = max(end, min(here + 2, stop))
                if end - here < 2:
                    break  # a sentence alone has no order
                middle = starts[here + 1 + int(share() * (end - here - 1))]
                first, second = (starts[here], middle), (middle, starts[end])
                swapped = swap and share() < 0.5
                spans.append((*second, number, *first) if swapped else (*first, number, *second))
                labels.append(int(swapped))
                here = end
                continue
            a_end = here + 1 + int(share() * (end - here - 1)) if end - here > 1 else end
            a_tokens = starts[a_end] - starts[here]
            is_random = end - here == 1 or share() < 0.5
            if is_random:
                other = document
                for _ in range(10):  # as in Google's code, in ten tries it may remain the same document
                    other = int(share() * documents)
                    if other != document:
                        break
                b = store.sentence_run(other, share(), target - a_tokens)
            else:
                b = number, starts[a_end], starts[end]
            spans.append((starts[here], starts[a_end], *b))
            labels.append(int(is_random))
            here = a_end if is_random else end  # sentences that B did not use come next
    input_ids = np.zeros((len(spans), seq_length), piece.tokens.dtype)
    lengths = _fill(rng, store, number, piece, np.array(spans, np.int64).reshape(-1, 5), longest, input_ids)
    rows, (a, b) = np.arange(len(spans)), lengths.T
    input_ids[:, 0] = cls_id
    input_ids[rows, a + 1] = sep_id
    if objective != "none":
        input_ids[rows, a + b + 2] = sep_id
    return Rows(input_ids, lengths, np.array(labels, np.int32))


def truncated_lengths(a: np.ndarray, b: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths after removing single tokens from the longer segment, B where they are equal, until the sum fits."""
    excess = np.maximum(a + b - longest, 0)
    apart = np.minimum(np.abs(a - b), excess)  # removed from the longer one before they are equal
    rest = excess - apart
    a_cut = np.where(a > b, apart, 0) + rest // 2
    return a - a_cut, b - (excess - a_cut)


def _fill(
    rng: np.random.Generator,
    store: TokenStore,
    number: int,
    piece: Piece,
    spans: np.ndarray,
    longest: int,
    input_ids: np.ndarray,
) -> np.ndarray:
    """Truncates the segments, each token at the front or the back at random, and copies what is left into the rows.

    Returns:
        [R, 2], the lengths of A and B.
    """
    a_first, a_end, b_piece, b_first, b_end = spans.T
    a, b = truncated_lengths(a_end - a_first, b_end - b_first, longest)
    a_first = a_first + rng.binomial(a_end - a_first - a, 0.5)
    b_first = b_first + rng.binomial(b_end - b_first - b, 0.5)
    _copy(input_ids, np.arange(len(spans)), np.ones_like(a), piece.tokens, a_first, a)
    near = np.flatnonzero(b_piece == number)
    _copy(input_ids, near, a[near] + 2, piece.tokens, b_first[near], b[near])
    far = np.flatnonzero((b_piece >= 0) & (b_piece != number))
    columns = (b_piece, b_first, b, a + 2)
    for row, other, begin, count, offset in zip(far.tolist(), *(c[far].tolist() for c in columns), strict=True):
        input_ids[row, offset : offset + count] = store.tokens(other, begin, begin + count)
    return np.stack([a, b], 1)


def _copy(
    ids: np.ndarray, rows: np.ndarray, offsets: np.ndarray, tokens: np.ndarray, first: np.ndarray, count: np.ndarray
) -> None:
    """ids[rows[i], offsets[i]:…] = tokens[first[i] : first[i] + count[i]] for all i."""
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    ids[np.repeat(rows, count), np.repeat(offsets, count) + within] = tokens[np.repeat(first, count) + within]
