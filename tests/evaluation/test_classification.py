"""Metrics against their formulas."""

import numpy as np
import pytest

from evaluation.classification import mean_score, metrics


def test_classification_metrics_follow_their_formulas():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 2, (2, 101))
    tp, tn = ((labels == value) & (predictions == value) for value in (1, 0))
    fp, fn = (labels == 0) & (predictions == 1), (labels == 1) & (predictions == 0)
    tp, tn, fp, fn = (float(each.sum()) for each in (tp, tn, fp, fn))
    found = metrics(("accuracy", "f1", "matthews_correlation"), labels, predictions)
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = {"accuracy": (tp + tn) / 101, "f1": 2 * tp / (2 * tp + fp + fn), "matthews_correlation": mcc}
    assert found == pytest.approx(expected, rel=1e-12)
    assert mean_score(found) == pytest.approx(np.mean(list(expected.values())))


def test_correlations_follow_their_formulas():
    rng = np.random.default_rng(2)
    labels = rng.permutation(17).astype(float)
    predictions = labels + 5 * rng.standard_normal(17)
    ranks = predictions.argsort().argsort()
    found = metrics(("pearson", "spearman"), labels, predictions)
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1], rel=1e-12)
    assert found["spearman"] == pytest.approx(np.corrcoef(labels, ranks)[0, 1], rel=1e-12)


def test_undefined_correlations_are_0():
    labels, zeros = np.array([1.0, 2.0, 4.0]), {"pearson": 0.0, "spearman": 0.0}
    assert metrics(("pearson", "spearman"), labels, np.ones(3)) == zeros
    assert metrics(("pearson", "spearman"), np.ones(3), labels) == zeros
    assert metrics(("pearson", "spearman"), labels[:1], labels[:1]) == zeros
    found = metrics(("matthews_correlation", "f1"), np.array([0, 1, 1]), np.zeros(3, int))
    assert found == {"matthews_correlation": 0.0, "f1": 0.0}
