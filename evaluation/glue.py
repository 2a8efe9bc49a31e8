"""The metrics of GLUE (Wang et al. 2018), computed by scikit-learn and SciPy."""

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
            warnings.simplefilter("ignore")  # the correlation with a constant is undefined
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
    """Compute metrics over an evaluation set.

    Args:
        names: keys of `METRICS`.
        labels: [n], classes (1 is the positive class), or scores for correlations.
        predictions: [n], classes or scores like the labels.

    Returns:
        {name: value}. A correlation is 0 if it is undefined because all predictions or all labels are equal.
    """
    return {name: float(METRICS[name](labels, predictions)) for name in names}


def glue_score(metrics: dict[str, float]) -> float:
    """The score of a task on GLUE's leaderboard: the mean of its metrics."""
    return float(np.mean(list(metrics.values())))
