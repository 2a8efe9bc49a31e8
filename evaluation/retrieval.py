"""Exact vector search, ranking metrics, and correlations of scored pairs.

Shapes: `Q` queries, `N` vectors in the corpus, `H` dimensions, `k` results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr

CUTOFFS = (1, 3, 5, 10)  # of recall
RANKED = 10  # number of results that MRR and nDCG use
_BLOCK_BYTES = 32 << 20
_QUERIES_AT_ONCE = 256


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32: vectors normalized to length 1 over the last axis; zero vectors stay zero."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def blocks(vectors: np.ndarray) -> Iterable[np.ndarray]:
    """Yields the vectors [N, H] in blocks whose scores need little memory."""
    rows = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    return (vectors[first : first + rows] for first in range(0, len(vectors), rows))


def most_similar(queries: np.ndarray, corpus: Iterable[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k vectors with the highest cosines for each query, best first; ties are in corpus order.

    Args:
        queries: [Q, H].
        corpus: blocks [n, H], together [N, H]; only one is in memory at a time.
        k: the number of results.

    Returns:
        The indices of the vectors, int64 [Q, min(k, N)], and their cosines, float32.
    """
    queries = unit(queries)
    best = np.full((len(queries), k), -1, np.int64)
    cosines = np.full((len(queries), k), -np.inf, np.float32)
    first = 0
    for block in corpus:
        vectors = unit(block)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            chosen = slice(start, start + _QUERIES_AT_ONCE)
            _improve(best[chosen], cosines[chosen], queries[chosen] @ vectors.T, first)
        first += len(block)
    found = min(k, first)
    return best[:, :found], cosines[:, :found]


def _improve(best: np.ndarray, cosines: np.ndarray, scores: np.ndarray, first: int) -> None:
    """Merges the scores [Q, n] of a block into the best so far [Q, k]; `first` is the index of its first vector."""
    (rows,) = np.nonzero((scores > cosines[:, -1:]).any(axis=1))
    k = best.shape[1]
    scores = scores[rows]
    if scores.shape[1] > k:
        columns = _largest(scores, k)
        scores = np.take_along_axis(scores, columns, axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    scores = np.concatenate([cosines[rows], scores], axis=1)
    numbers = np.concatenate([best[rows], columns + first], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    cosines[rows] = np.take_along_axis(scores, order, axis=1)
    best[rows] = np.take_along_axis(numbers, order, axis=1)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """int64 [Q, k]: the ascending positions of the k largest scores of each row; ties favor the first."""
    limit = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k, None]
    above, equal = scores > limit, scores == limit
    room = k - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(taken)[1].reshape(len(scores), k)


def retrieval_metrics(rankings: Sequence[Sequence[str]], relevance: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Recall at several cutoffs, MRR@10 and nDCG@10 (with linear gain, as in trec_eval), averaged over the queries.

    Args:
        rankings: for each query the ids of its results, best first.
        relevance: for each query {id: relevance above 0}, not empty.
    """
    recalls: dict[int, list[float]] = {cutoff: [] for cutoff in CUTOFFS}
    reciprocal, gains = [], []
    for ranking, relevant in zip(rankings, relevance, strict=True):
        hits = [name in relevant for name in ranking]
        for cutoff in CUTOFFS:
            recalls[cutoff].append(sum(hits[:cutoff]) / len(relevant))
        reciprocal.append(next((1 / rank for rank, hit in enumerate(hits[:RANKED], 1) if hit), 0.0))
        found = _discounted(relevant.get(name, 0.0) for name in ranking[:RANKED])
        gains.append(found / _discounted(sorted(relevant.values(), reverse=True)[:RANKED]))
    means = {f"recall@{cutoff}": float(np.mean(values)) for cutoff, values in recalls.items()}
    return {**means, f"mrr@{RANKED}": float(np.mean(reciprocal)), f"ndcg@{RANKED}": float(np.mean(gains))}


def _discounted(gains: Iterable[float]) -> float:
    return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def similarity_metrics(cosines: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's correlation of cosines and scores [n]; 0 if one of them is constant."""
    if np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(spearmanr(cosines, scores).statistic),
        "pearson": float(pearsonr(cosines, scores).statistic),
    }
