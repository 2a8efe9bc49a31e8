"""Masked-LM and next-sentence figures from sums over a whole evaluation set."""

from __future__ import annotations

import math
from collections.abc import Mapping


def pretraining_metrics(sums: Mapping[str, float], masked_tokens: float, records: float) -> dict[str, float]:
    """
    Args:
        sums: `mlm_loss`, `mlm_accuracy` summed over masked tokens; `nsp_loss`, `nsp_accuracy` over records.
        masked_tokens, records: how many of each were counted.

    Returns:
        The means as `eval_mlm_loss`, …, `eval_total_loss` (their losses' sum), and `eval_perplexity`, e to the
        masked-LM loss.
    """
    counts = {"mlm": masked_tokens, "nsp": records}
    means = {f"eval_{name}": sums[name] / counts[name[:3]] for name in sums if name[:3] in counts}
    losses = [value for name, value in means.items() if name.endswith("_loss")]
    perplexity = {"eval_perplexity": math.exp(min(means["eval_mlm_loss"], 700.0))} if "eval_mlm_loss" in means else {}
    return {"eval_total_loss": sum(losses), **means, **perplexity}
