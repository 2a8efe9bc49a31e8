"""Masked-LM metrics of a whole evaluation set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def masked_lm_metrics(means: Mapping[str, float], losses: Sequence[str]) -> dict[str, float]:
    """Compute the evaluation metrics of masked-LM.

    Args:
        means: the mean of each metric over the set, such as `mlm_loss`, `mlm_accuracy` and `nsp_loss`.
        losses: the losses among them whose sum is the total loss.

    Returns:
        `eval_total_loss`, the means as `eval_…`, and `eval_perplexity`, exp(`mlm_loss`), if there is a masked-LM loss.
    """
    metrics = {"eval_total_loss": sum(means[name] for name in means if name in losses)}
    metrics |= {f"eval_{name}": value for name, value in means.items()}
    if "mlm_loss" in means:
        metrics["eval_perplexity"] = math.exp(min(means["mlm_loss"], 700.0))  # exp overflows above 709
    return metrics
