"""Scaled dot-product attention of many heads (Vaswani et al. 2017), in one of two ways with the same results.

Short rows hold the matrix of scores. Long rows, and rows of several sequences, use a CPU kernel without the matrix
(kernels/src/attention.cpp), whose memory is linear in the number of tokens. It computes in float32, so that in bf16 the
products with the matrix stay faster for longer.

Shapes: `B` rows, `S` positions of a row, `N` heads, `D` head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import oneflow as flow
from oneflow._oneflow_internal.autograd import AutogradFunctionBase

import kernels
from configs.model import LONG_ROW
from modeling import dropout, ops
from modeling.layout import full_like, positions_like

_BF16_FACTOR = 4  # how much longer than `LONG_ROW` a row is in bf16


@dataclass(frozen=True)
class Rows:
    """The layout of sequences in the rows of a batch.

    Attributes:
        numbers: int [B, S], the number of each token's sequence within its row; 0 for padding. Tokens attend to the
            tokens of their own sequence, which lie one behind the other.
        packed: whether a row may hold several sequences, so that `numbers` may exceed 1.
    """

    numbers: flow.Tensor
    packed: bool = False

    @cached_property
    def keep(self) -> flow.Tensor:
        """bool [B, 1, 1, S]: False at padding."""
        batch, length = self.numbers.shape
        return self.numbers.to(flow.bool).reshape(batch, 1, 1, length)


def attention(
    query: flow.Tensor,
    key: flow.Tensor,
    value: flow.Tensor,
    rows: Rows,
    *,
    heads: int,
    rate: float = 0.0,
    reach: int | None = None,
    slopes: tuple[float, ...] = (),
) -> flow.Tensor:
    """dropout(softmax(Q Kᵀ / √D - slope * distance)) V of each head, over the tokens of the same sequence.

    Args:
        query, key, value: float32 [B*S, N*D].
        rows: which token belongs to which sequence.
        heads: `N`.
        rate: of dropout on the probabilities.
        reach: how many positions a token sees to both sides (default: its whole sequence).
        slopes: one of each head (ALiBi, Press et al. 2022); none: no distances.

    Returns:
        [B*S, N*D]. Only the rows of tokens are meaningful.
    """
    long = LONG_ROW * (_BF16_FACTOR if kernels.bf16_is_on() else 1)
    special = rows.packed or reach is not None or slopes or rows.numbers.shape[1] >= long
    if special and kernels.is_loaded() and not query.is_cuda:
        settings = (heads, -1 if reach is None else reach, slopes, rate, dropout.next_seed() if rate else 0)
        return _without_matrix(query, key, value, rows.numbers.to(flow.int32), settings)
    split = [
        x.reshape(*rows.numbers.shape, heads, x.shape[1] // heads).permute(0, 2, 1, 3) for x in (query, key, value)
    ]
    scores = flow._C.matmul(split[0], split[1], transpose_b=True)  # [B, N, S, S]
    scale = 1.0 / math.sqrt(query.shape[1] // heads)
    keep = visible(rows, reach)  # [B, 1, 1 or S, S]
    if slopes:
        scores = scores - _distances(scores, slopes) / scale
    probs = ops.attention_probs(scores, keep, scale, rate)
    context = flow._C.matmul(probs, split[2])  # [B, N, S, D]
    return context.permute(0, 2, 1, 3).reshape(query.shape[0], query.shape[1])


def _without_matrix(
    query: flow.Tensor, key: flow.Tensor, value: flow.Tensor, numbers: flow.Tensor, settings: tuple[Any, ...]
) -> flow.Tensor:
    def forward(ctx: Any, *inputs: flow.Tensor) -> flow.Tensor:
        outputs = kernels.call_attention(0, inputs, *settings)
        ctx.save_for_backward(*inputs, *outputs)
        return outputs[0]

    def backward(ctx: Any, slope: flow.Tensor) -> tuple[flow.Tensor | None, ...]:
        return (*kernels.call_attention(1, [*ctx.saved_tensors, slope], *settings), None)

    context: flow.Tensor = AutogradFunctionBase.apply("attention", forward, backward, query, key, value, numbers)
    return context


def visible(rows: Rows, reach: int | None) -> flow.Tensor:
    """bool [B, 1, 1 or S, S]: which keys a query attends to."""
    keep, (batch, length) = rows.keep, rows.numbers.shape
    if rows.packed:
        keys, queries = rows.numbers.reshape(batch, 1, 1, length), rows.numbers.reshape(batch, 1, length, 1)
        keep = flow.logical_and(keep, keys == queries)
    if reach is not None:
        keep = flow.logical_and(keep, _offsets(rows.numbers, length) <= reach)
    return keep


def _distances(scores: flow.Tensor, slopes: tuple[float, ...]) -> flow.Tensor:
    """slope * distance of each pair of positions, [1, N, S, S]."""
    factors = flow.cat([full_like(scores, (1, 1, 1, 1), slope) for slope in slopes], dim=1)
    return factors * _offsets(scores, scores.shape[-1]).to(scores.dtype)


def _offsets(x: flow.Tensor, length: int) -> flow.Tensor:
    """int64 [1, 1, S, S]: the distance of each pair of positions, placed like x."""
    positions = positions_like(x, length)
    return (positions.reshape(1, 1, 1, length) - positions.reshape(1, 1, length, 1)).abs()
