"""Masks of several words in a row: spans (SpanBERT, Joshi et al. 2020) and n-grams (ALBERT, Lan et al. 2020).

Shapes: `R` records, `S` sequence, `M` tokens to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_TURNS_PER_TOKEN = 4  # after this many, a row keeps fewer masks than wanted: its words are too long, or all are taken


@dataclass(frozen=True)
class Chunks:
    """How many words are masked in a row.

    Attributes:
        shares: float64 [longest]; the probability of each length, 1 word first.
        one_fate: whether all tokens of a chunk become [MASK], stay or become random tokens together.
    """

    shares: np.ndarray
    one_fate: bool

    @classmethod
    def spans(cls, probability: float = 0.2, longest: int = 10) -> Chunks:
        """SpanBERT's lengths: geometric, without those above the longest; each span has one fate."""
        shares = probability * (1 - probability) ** np.arange(longest)
        return cls(shares / shares.sum(), True)

    @classmethod
    def ngrams(cls, longest: int = 3) -> Chunks:
        """ALBERT's lengths: n words with a probability in proportion to 1 / n."""
        shares = 1 / np.arange(1, longest + 1)
        return cls(shares / shares.sum(), False)


def choose_chunks(
    draw: Callable[[tuple[int, ...]], np.ndarray],
    words: np.ndarray,
    candidates: np.ndarray,
    wanted: np.ndarray,
    chunks: Chunks,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens to predict: chunks of whole words that begin at random words, until there are enough.

    A chunk ends before a word that is taken already or that would exceed what is wanted, and never contains a token
    that is no candidate. A chunk that would begin at a taken word is drawn again.

    Args:
        draw: returns random uint64 numbers of a shape [R, n].
        words: int [R, S], the number of each candidate's word; the words of a row are numbered from 0.
        candidates: bool [R, S], what may be masked.
        wanted: int [R], the most tokens of each row.
        chunks: the lengths.

    Returns:
        rows, columns and chunk numbers, int [M], sorted by row, then by column; chunks are numbered in each row.
    """
    records, length = candidates.shape
    count = np.where(candidates, words + 1, 0).max(axis=1)  # words of each row
    limits = np.cumsum(chunks.shares)[:-1]
    chunk = np.full((records, length), -1)
    taken = np.zeros(records, np.int64)
    gap = np.cumsum(~candidates, axis=1)  # equal for two candidates if all tokens between them are candidates
    for turn in range(_TURNS_PER_TOKEN * length):
        numbers = draw((records, 2))
        rows = np.flatnonzero((taken < wanted) & (count > 0))
        if not len(rows):
            break
        start = (numbers[rows, 0] % count[rows].astype(np.uint64)).astype(np.int64)[:, None]
        size = 1 + np.searchsorted(limits, (numbers[rows, 1] >> np.uint64(11)) * 2.0**-53, side="right")[:, None]
        word, free = words[rows], chunk[rows] < 0
        wished = candidates[rows] & (word >= start) & (word < start + size)
        first = wished.argmax(axis=1)[:, None]
        wished &= np.take_along_axis(gap[rows], first, 1) == gap[rows]
        # A chunk ends at the first word of which a token is taken, or which does not fit.
        stops = wished & (~free | (np.cumsum(wished, axis=1) > (wanted - taken)[rows, None]))
        end = np.where(stops, word, start + size).min(axis=1, keepdims=True)
        wished &= word < end
        chunk[rows] = np.where(wished, turn, chunk[rows])
        taken[rows] += np.count_nonzero(wished, axis=1)
    rows, columns = np.nonzero(chunk >= 0)
    return rows, columns, chunk[rows, columns]
