"""The few operations that the encoder is made of, each in the one form that is fast on the device at hand.

Shapes: `R` rows, `H` features of a row, `B` batch, `N` heads, `S` sequence.
"""

from __future__ import annotations

import oneflow as flow
import oneflow.nn.functional as F

from modeling.dropout import dropout


def layer_norm(x: flow.Tensor, weight: flow.Tensor, bias: flow.Tensor, eps: float) -> flow.Tensor:
    """Layer normalization (Ba et al. 2016) over the last axis; x [..., H], weight and bias [H]."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def bias_gelu(x: flow.Tensor, bias: flow.Tensor) -> flow.Tensor:
    """GELU (Hendrycks & Gimpel 2016, the erf form) of x + bias; x [R, H], bias [H]."""
    return F.gelu(x + bias)


def bias_dropout_add(x: flow.Tensor, bias: flow.Tensor, residual: flow.Tensor, rate: float) -> flow.Tensor:
    """residual + dropout(x + bias); x and residual [R, H], bias [H]."""
    return residual + dropout(x + bias, rate)


def attention_probs(scores: flow.Tensor, mask: flow.Tensor, scale: float, rate: float) -> flow.Tensor:
    """dropout(softmax(scores * scale + mask)); scores [B, N, S, S], mask [B, 1, 1, S] is 0 to attend, -10000 not to."""
    return dropout(flow.softmax(scores * scale + mask, dim=-1), rate)
