"""Weighted losses and accuracies of BERT's objectives.

Padding items have weight 0. With `reduction="mean"`, the weighted sum is divided by the sum of the
weights. With `"sum"` it is not. A caller that splits a batch into micro-batches or over ranks uses "sum" and divides
the weights by their sum over the whole batch first, so that the partial sums add up to the mean of the whole batch.

Shapes: `K` items, `C` classes.
"""

from __future__ import annotations

import oneflow as flow

from modeling.precision import in_fp32


def cross_entropy(logits: flow.Tensor, labels: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """Weighted softmax cross entropy, a scalar; logits [K, C], labels int [K] below C, weights float [K]."""
    item_losses = flow._C.sparse_softmax_cross_entropy(in_fp32(logits), labels)  # [K]
    return reduce(item_losses, weights, reduction)


def soft_cross_entropy(logits: flow.Tensor, targets: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """Weighted softmax cross entropy with a target for every class, a scalar; logits and targets [K, C]."""
    return reduce(-(flow.nn.functional.log_softmax(in_fp32(logits), dim=-1) * targets).sum(dim=-1), weights, reduction)


def binary_cross_entropy(
    logits: flow.Tensor, labels: flow.Tensor, scales: flow.Tensor | None, weights: flow.Tensor, reduction: str
) -> flow.Tensor:
    """Weighted sigmoid cross entropy, averaged over the classes, a scalar.

    Args:
        logits, labels: [K, C].
        scales: [K, C], factors of the classes' losses (default: 1).
        weights, reduction: as above.
    """
    items = flow._C.binary_cross_entropy_with_logits_loss(in_fp32(logits), labels, None, None, "none")  # [K, C]
    return reduce((items if scales is None else items * scales).mean(dim=-1), weights, reduction)


def accuracy(logits: flow.Tensor, labels: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """Weighted share of items whose label has the largest logit, a scalar; shapes as in `cross_entropy`."""
    correct = flow.argmax(logits, dim=-1).to(labels.dtype) == labels  # [K]
    return reduce(correct.to(weights.dtype), weights, reduction)


def reduce(items: flow.Tensor, weights: flow.Tensor, reduction: str) -> flow.Tensor:
    """The weighted sum of `items` [K]; with "mean" their weighted mean, which is 0 if all weights are 0."""
    total = (items * weights).sum()
    return total if reduction == "sum" else total / (weights.sum() + 1e-12)
