"""Masked-LM figures of a whole evaluation set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def masked_lm_metrics(means: Mapping[str, float], losses: Sequence[str]) -> dict[str, float]:
    """
    Args:
        means: each figure's mean over the set, such as `mlm_loss`, `mlm_accuracy` and `nsp_loss`.
        losses: those of them whose sum is the total loss.

    Returns:
        `eval_total_loss`, the means as `eval_…`, and `eval_perplexity`, e to the masked-LM loss, where that is given.
    """
    metrics = {"eval_total_loss": sum(means[name] for name in means if name in losses)}
    metrics |= {f"eval_{name}": value for name, value in means.items()}
    if "mlm_loss" in means:
        metrics["eval_perplexity"] = math.exp(min(means["mlm_loss"], 700.0))  # beyond 700 it overflows
    return metrics
