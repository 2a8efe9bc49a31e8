"""GLUE's metrics (Wang et al. 2018), each as scikit-learn and SciPy compute it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def _correlation(function: Callable) -> Callable[[np.ndarray, np.ndarray], float]:
    def correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
        if len(labels) < 2:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a constant prediction correlates with nothing
            return float(np.nan_to_num(function(labels, predictions)[0]))

    return correlation


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predictions: f1_score(labels, predictions, zero_division=0),
    "matthews_correlation": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}


def glue_metrics(names: Sequence[str], labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The named metrics of one set.

    Args:
        names: among `METRICS`.
        labels: [n], class numbers (the positive class is 1) or scores.
        predictions: [n], of the same kind.

    Returns:
        {name: value}; a correlation that does not exist because all predictions are equal is 0.
    """
    return {name: float(METRICS[name](labels, predictions)) for name in names}


def glue_score(metrics: dict[str, float]) -> float:
    """The one number that GLUE ranks a task by: the mean of its metrics."""
    return float(np.mean(list(metrics.values())))
