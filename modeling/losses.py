"""The losses and accuracies of BERT's objectives, each over items that carry a weight.

An item's weight is 0 where it only fills up a batch. With `reduction="mean"` the sum of weighted losses is divided by
the weights' sum. With `"sum"` it is not: whoever splits one batch over micro-batches or ranks divides the weights by
their sum over the whole batch beforehand, and the parts then add up to the whole batch's mean.

Shapes: `K` items, `C` classes.
"""

from __future__ import annotations

import oneflow as flow


def cross_entropy(logits: flow.Tensor, labels: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """Weighted softmax cross entropy, a scalar; logits [K, C], labels [K] below C, weights [K]."""
    item_losses = flow._C.sparse_softmax_cross_entropy(logits, labels)  # [K]
    return reduce(item_losses, weights, reduction)


def accuracy(logits: flow.Tensor, labels: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """Weighted share of items whose largest logit is the label's, a scalar; shapes as in `cross_entropy`."""
    correct = flow.argmax(logits, dim=-1).to(labels.dtype) == labels  # [K]
    return reduce(correct.to(weights.dtype), weights, reduction)


def reduce(items: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """The weighted sum of `items` [K]; with `"mean"` divided by the weights' sum (0 where all weights are 0)."""
    total = (items * weights).sum()
    return total if reduction == "sum" else total / (weights.sum() + 1e-12)
