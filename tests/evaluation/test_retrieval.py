"""Exact search against a full sort, and the figures against scikit-learn, scipy and their definitions."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import ndcg_score

from evaluation import retrieval
from evaluation.retrieval import blocks, most_similar, retrieval_metrics, similarity_metrics, unit


@pytest.mark.parametrize(("count", "k"), [(1, 1), (7, 3), (7, 20), (501, 5), (501, 37)])
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_search_is_exact(monkeypatch, count, k, block):
    monkeypatch.setattr(retrieval, "_QUERIES_AT_ONCE", 4)
    random = np.random.default_rng(count)
    corpus = random.integers(-2, 3, (count, 3)).astype(np.float32)  # with many equal scores
    queries = random.integers(-2, 3, (9, 3)).astype(np.float32)
    parts = (corpus[first : first + block] for first in range(0, count, block))
    found, scores = most_similar(queries, parts, k)
    # Products in blocks of other sizes differ in the last bits, so ties are compared by their scores.
    expected = unit(queries) @ unit(corpus).T
    best = -np.sort(-expected, axis=1)[:, :k]
    np.testing.assert_allclose(scores, best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, found, axis=1), best, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in found.tolist())


def test_of_equal_vectors_the_first_ones_are_found():
    corpus = np.ones((8, 4), np.float32)
    found, _ = most_similar(np.ones((2, 4)), (corpus[first : first + 3] for first in (0, 3, 6)), 4)
    assert found.tolist() == [[0, 1, 2, 3]] * 2


def test_blocks_hold_every_vector(monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 4 * 3 * 5)
    vectors = np.arange(39).reshape(13, 3)
    parts = list(blocks(vectors))
    assert [len(part) for part in parts] == [5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(parts), vectors)


def test_ndcg_is_scikit_learns():
    random = np.random.default_rng(2)
    names = [f"d{number}" for number in range(23)]
    rankings, relevance, expected = [], [], []
    for _ in range(11):
        scores, grades = random.standard_normal(23), random.integers(0, 4, 23)
        order = np.argsort(-scores)
        rankings.append([names[number] for number in order])
        relevance.append({name: float(grade) for name, grade in zip(names, grades, strict=True) if grade})
        expected.append(ndcg_score([grades], [scores], k=10))
    assert retrieval_metrics(rankings, relevance)["ndcg@10"] == pytest.approx(np.mean(expected))


def test_recall_and_reciprocal_rank():
    metrics = retrieval_metrics([["a", "b", "c", "d"], ["x", "y", "z"]], [{"b": 1.0, "d": 1.0}, {"q": 1.0}])
    assert metrics["recall@1"] == 0 and metrics["recall@3"] == 0.25 and metrics["recall@5"] == 0.5
    assert metrics["mrr@10"] == 0.25


def test_correlations_are_scipys():
    random = np.random.default_rng(4)
    cosines = random.standard_normal(37)
    scores = np.round(cosines + random.standard_normal(37))
    metrics = similarity_metrics(cosines, scores)
    assert metrics["spearman"] == pytest.approx(spearmanr(cosines, scores)[0])
    assert metrics["pearson"] == pytest.approx(pearsonr(cosines, scores)[0])
    assert similarity_metrics(np.ones(5), np.arange(5.0)) == {"spearman": 0.0, "pearson": 0.0}
