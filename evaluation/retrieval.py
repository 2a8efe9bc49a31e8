"""Exact search among vectors, the figures of a ranking, and those of scored pairs.

Shapes: `Q` queries, `N` vectors that are searched, `H` dimensions, `k` results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr

CUTOFFS = (1, 3, 5, 10)  # of recall
RANKED = 10  # results that MRR and nDCG look at
_BLOCK_BYTES = 64 << 20


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32: the vectors of the last axis divided by their lengths; a vector of zeros stays one."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def blocks(vectors: np.ndarray) -> Iterable[np.ndarray]:
    """The vectors [N, H], which may be memory-mapped, in blocks that fit into a little memory."""
    rows = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    return (vectors[first : first + rows] for first in range(0, len(vectors), rows))


def most_similar(queries: np.ndarray, corpus: Iterable[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors with the highest cosines for each query, best first; of equal ones the earlier first.

    Args:
        queries: [Q, H].
        corpus: blocks [n, H], together [N, H]; only one is in memory at a time.
        k: the number of results.

    Returns:
        The numbers of the vectors, int64 [Q, min(k, N)], and their cosines, float32.
    """
    queries = unit(queries)
    best_scores = np.empty((len(queries), 0), np.float32)
    best = np.empty((len(queries), 0), np.int64)
    first = 0
    for block in corpus:
        lengths = np.maximum(np.linalg.norm(np.asarray(block, np.float32), axis=1), 1e-12)
        scores = queries @ np.asarray(block, np.float32).T / lengths  # [Q, n]
        if scores.shape[1] > k:
            chosen = _largest(scores, k)  # [Q, k], in the order of the corpus
            scores = np.take_along_axis(scores, chosen, axis=1)
        else:
            chosen = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best = np.concatenate([best, chosen + first], axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(best_scores, order, axis=1)
        best = np.take_along_axis(best, order, axis=1)
        first += len(block)
    return best, best_scores


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """int64 [Q, k]: where the k largest scores of each row are, in ascending order; of equal ones the first count."""
    limit = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k, None]
    above, equal = scores > limit, scores == limit
    room = k - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(taken)[1].reshape(len(scores), k)


def retrieval_metrics(rankings: Sequence[Sequence[str]], relevance: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Recall at several cutoffs, MRR@10 and nDCG@10 (with the gain itself, as in trec_eval), means over the queries.

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
    """Spearman's and Pearson's correlation of cosines and scores [n]; 0 where one of them never changes."""
    if np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(spearmanr(cosines, scores).statistic),
        "pearson": float(pearsonr(cosines, scores).statistic),
    }
