"""Losses for sentence embeddings. Each compares the texts of a whole batch.

A loss is called with the embeddings and returns one number per row, so that the weighted mean over the rows is the
loss of the batch (losses.py). Definitions follow the losses of sentence-transformers.

Shapes: `B` rows of the batch, `T` texts of a row, `H` hidden. Text 0 of a row is the anchor, text 1 the positive, and
further texts are hard negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import oneflow as flow

from modeling.layout import full_like

_EXCLUDED = -1e9  # the score of excluded pairs


class EmbeddingLoss(Protocol):
    """A loss over the embeddings of a batch."""

    def __call__(self, embeddings: flow.Tensor, scores: flow.Tensor | None, weights: flow.Tensor) -> flow.Tensor:
        """The loss of each row, [B].

        Args:
            embeddings: [B, T, H].
            scores: float [B], the similarity of texts 0 and 1 of a row; None if the records have no scores.
            weights: [B], above 0 for a record and 0 for a padding row, whose texts are excluded.
        """
        ...


@dataclass(frozen=True)
class MultipleNegatives:
    """Cross entropy of the positive among the positives and hard negatives of the batch (Henderson et al. 2017).

    Attributes:
        scale: multiplies the cosines; 1 / temperature.
        symmetric: whether to average with the cross entropy of the anchor among all anchors, given the positive.
    """

    scale: float = 20.0
    symmetric: bool = False

    def __call__(self, embeddings: flow.Tensor, scores: flow.Tensor | None, weights: flow.Tensor) -> flow.Tensor:
        unit = normalized(embeddings)
        anchors = unit[:, 0]  # [B, H]
        rows = anchors.shape[0]
        excluded = (weights <= 0).to(unit.dtype) * _EXCLUDED  # [B]
        cosines = [
            flow.matmul(anchors, unit[:, text], transpose_b=True) * self.scale + excluded
            for text in range(1, unit.shape[1])
        ]  # T - 1 of [B, B]
        own = flow.arange(rows, dtype=flow.int32, device=unit.device)  # [B]
        forward = flow._C.sparse_softmax_cross_entropy(flow.cat(cosines, dim=1), own)  # [B]
        if not self.symmetric:
            return forward
        to_anchors = flow.matmul(unit[:, 1], anchors, transpose_b=True) * self.scale + excluded  # [B, B]
        return (forward + flow._C.sparse_softmax_cross_entropy(to_anchors, own)) / 2


@dataclass(frozen=True)
class CoSent:
    """log(1 + Σ exp(scale (cos_i - cos_j))) over all pairs of rows with score_i < score_j (Su 2022)."""

    scale: float = 20.0

    def __call__(self, embeddings: flow.Tensor, scores: flow.Tensor | None, weights: flow.Tensor) -> flow.Tensor:
        assert scores is not None
        cosines = _cosines(embeddings) * self.scale  # [B]
        real = (weights > 0).to(cosines.dtype)
        counts = (scores[:, None] < scores[None, :]).to(cosines.dtype) * real[:, None] * real[None, :]  # [B, B]
        differences = cosines[:, None] - cosines[None, :] + (1.0 - counts) * _EXCLUDED
        exponents = flow.cat([differences.reshape(-1), full_like(cosines, (1,), 0.0)], dim=0)  # [B*B + 1]
        largest = exponents.detach().max()
        return (flow.log(flow.exp(exponents - largest).sum()) + largest) * full_like(cosines, tuple(cosines.shape), 1.0)


@dataclass(frozen=True)
class CosineSimilarity:
    """The squared difference of the cosine and the score."""

    def __call__(self, embeddings: flow.Tensor, scores: flow.Tensor | None, weights: flow.Tensor) -> flow.Tensor:
        assert scores is not None
        error = _cosines(embeddings) - scores
        return error * error


@dataclass(frozen=True)
class Matryoshka:
    """The sum of a loss over several numbers of leading dimensions (Kusupati et al. 2022)."""

    loss: EmbeddingLoss
    dimensions: Sequence[int]

    def __call__(self, embeddings: flow.Tensor, scores: flow.Tensor | None, weights: flow.Tensor) -> flow.Tensor:
        items = [self.loss(embeddings[:, :, :size], scores, weights) for size in self.dimensions]
        return sum(items[1:], items[0])


def normalized(vectors: flow.Tensor) -> flow.Tensor:
    """The vectors of the last axis, divided by their lengths."""
    length = flow.sqrt((vectors * vectors).sum(dim=-1, keepdim=True))
    return vectors / flow.clamp(length, min=1e-12)


def _cosines(embeddings: flow.Tensor) -> flow.Tensor:
    """[B]: the cosine of texts 0 and 1 of each row."""
    unit = normalized(embeddings)
    return (unit[:, 0] * unit[:, 1]).sum(dim=-1)
