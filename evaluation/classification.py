"""Metrics for classification and regression, computed by scikit-learn and SciPy.

Shapes: `n` examples, `C` labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

Metric = Callable[[np.ndarray, np.ndarray], float]
ClassTable = dict[str, dict[str, float]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings about undefined metrics, such as the correlation with a constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _correlation(function: Callable) -> Metric:
    def correlation(labels: np.ndarray, predictions: np.ndarray) -> float:
        if len(labels) < 2:
            return 0.0
        with _quiet():
            return float(np.nan_to_num(function(labels, predictions)[0]))

    return correlation


def _f1(average: str) -> Metric:
    return lambda labels, predictions: f1_score(labels, predictions, average=average, zero_division=0)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy_score,
    "f1": _f1("binary"),
    "macro_f1": _f1("macro"),
    "micro_f1": _f1("micro"),
    "matthews_correlation": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
    "rmse": lambda labels, predictions: np.sqrt(np.mean((labels - predictions) ** 2)),
}
# The metrics for the user's own data, by the `problem_type` of the model's configuration.
FIGURES = {
    "": ("accuracy", "macro_f1", "micro_f1", "matthews_correlation"),
    "multi_label_classification": ("accuracy", "macro_f1", "micro_f1", "mean_average_precision"),
    "regression": ("pearson", "spearman", "rmse"),
}
LOWER_IS_BETTER = ("rmse",)


def metrics(names: Iterable[str], labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Compute metrics over an evaluation set.

    Args:
        names: keys of `METRICS`.
        labels: [n] classes (1 is the positive class) or numbers; [n, C], 1 for each of several labels.
        predictions: same shape as `labels`.

    Returns:
        {name: value}. A correlation is 0 if it is undefined because all predictions or all labels are equal.
    """
    return {name: float(METRICS[name](labels, predictions)) for name in names}


def mean_score(figures: dict[str, float]) -> float:
    """The score of a task on GLUE's leaderboard: the mean of its metrics."""
    return float(np.mean(list(figures.values())))


def predictions_of(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Converts logits [n, C] to predictions: classes [n], 0 or 1 for each label [n, C], or numbers [n]."""
    if problem_type == "regression":
        return logits[:, 0]
    if problem_type == "multi_label_classification":
        return (logits > 0).astype(np.int32)  # a probability above one half
    predictions: np.ndarray = logits.argmax(axis=1)
    return predictions


def figures_of(labels: np.ndarray, logits: np.ndarray, problem_type: str) -> dict[str, float]:
    """The metrics for the user's own data.

    With several labels per text, accuracy is the fraction of texts whose labels are all correct, and mean average
    precision is scikit-learn's `average_precision_score` with macro averaging.
    """
    predictions = predictions_of(logits, problem_type)
    names = [name for name in FIGURES[problem_type] if name in METRICS]
    figures = metrics(names, labels.astype(predictions.dtype), predictions)
    if problem_type == "multi_label_classification":
        with _quiet():
            precision = average_precision_score(labels.astype(np.int32), logits, average="macro")
        figures["mean_average_precision"] = float(np.nan_to_num(precision))
    return figures


def class_table(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> ClassTable:
    """{label: {precision, recall, f1, support}} for classes [n], or for several labels [n, C]."""
    columns = precision_recall_fscore_support(
        labels, predictions, labels=np.arange(len(names)), average=None, zero_division=0
    )
    keys = ("precision", "recall", "f1", "support")
    return {
        name: {key: float(column[index]) for key, column in zip(keys, columns, strict=True)}
        for index, name in enumerate(names)
    }


def format_table(table: ClassTable) -> str:
    """Formats a class table as text."""
    width = max(5, *map(len, table))
    lines = [f"{'label':{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'support':>9}"]
    for name, row in table.items():
        lines.append(
            f"{name:{width}} {row['precision']:9.4f} {row['recall']:9.4f} {row['f1']:9.4f} {row['support']:9.0f}"
        )
    return "\n".join(lines)


_MOST_NUMBERED, _MOST_NAMED = 20, 60  # labels


def draw_confusion_matrix(path: Path, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> None:
    """Draw how often each label (rows) is predicted as each label (columns), as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = confusion_matrix(labels, predictions, labels=np.arange(len(names)))
    size = min(3 + 0.4 * len(names), 20)
    figure = Figure(figsize=(size, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="prediction", ylabel="label")
    axes.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues")
    if len(names) <= _MOST_NAMED:
        shown = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90)
        axes.set_yticks(range(len(names)), shown)
    if len(names) <= _MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(matrix):
            share = count / max(matrix[row].sum(), 1)
            axes.text(column, row, str(count), ha="center", va="center", color="white" if share > 0.5 else "black")
    figure.savefig(path, format="png", dpi=100)
