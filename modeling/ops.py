"""The operations of the encoder, each in the form that is fastest on the current device.

CUDA and this project's CPU kernels implement OneFlow's fused ops. OneFlow's stock CPU kernels do not, so there each
operation is composed of ops that are fast on them.

Shapes: `R` rows, `H` features of a row, `B` batch, `N` heads, `S` sequence.
"""

from __future__ import annotations

import oneflow as flow
import oneflow.nn.functional as F

import kernels
from modeling.dropout import dropout, takes_masks
from modeling.dropout import generator as dropout_generator
from modeling.layout import full_like

# The attention score of padding, as in Google's code.
MASKED_SCORE = -10000.0


def layer_norm(x: flow.Tensor, weight: flow.Tensor, bias: flow.Tensor | None, eps: float) -> flow.Tensor:
    """Layer normalization (Ba et al. 2016) over the last axis; x [R, H], weight [H], bias [H] or None."""
    if _fused(x):
        bias = weight * 0.0 if bias is None else bias  # the op's backward pass needs both or neither to be trained
        return flow._C.layer_norm_affine(x, weight, bias, begin_norm_axis=1, begin_params_axis=1, epsilon=eps)
    # Stock CPU kernels broadcast a column about 30 times slower than a row, so row means are matrix products.
    width = x.shape[1]
    average, spread = full_like(x, (width, 1), 1.0 / width), full_like(x, (1, width), 1.0)
    centered = x - flow.matmul(flow.matmul(x, average), spread)  # [R, H]
    variance = flow.matmul(centered * centered, average)  # [R, 1]
    scaled = centered * flow.matmul(flow.rsqrt(variance + eps), spread) * weight
    return scaled if bias is None else scaled + bias


def rms_norm(x: flow.Tensor, weight: flow.Tensor, eps: float) -> flow.Tensor:
    """x / √(mean(x²) + eps) * weight (Zhang & Sennrich 2019) over the last axis; x [R, H], weight [H]."""
    width = x.shape[1]
    average, spread = full_like(x, (width, 1), 1.0 / width), full_like(x, (1, width), 1.0)
    return x * flow.matmul(flow.rsqrt(flow.matmul(x * x, average) + eps), spread) * weight


def linear(x: flow.Tensor, weight: flow.Tensor, bias: flow.Tensor | None) -> flow.Tensor:
    """x weightᵀ + bias; x [R, I], weight [H, I], bias [H] or None -> [R, H]."""
    product = flow._C.matmul(x, weight, transpose_b=True)
    return product if bias is None else flow._C.bias_add(product, bias, axis=1)


def bias_gelu(x: flow.Tensor, bias: flow.Tensor | None) -> flow.Tensor:
    """GELU (Hendrycks & Gimpel 2016, the erf form) of x + bias; x [R, H], bias [H] or None."""
    if bias is None:
        return F.gelu(x)
    return flow._C.fused_bias_add_gelu(x, bias, axis=1) if _fused(x) else F.gelu(x + bias)


def activation(x: flow.Tensor, name: str) -> flow.Tensor:
    """The function that Hugging Face calls `name`, element by element."""
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return F.gelu(x, approximate="tanh")
    functions = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": flow.tanh}
    return functions[name](x)


def bias_activation(x: flow.Tensor, bias: flow.Tensor | None, name: str) -> flow.Tensor:
    """activation(x + bias); x [R, H], bias [H] or None."""
    if name == "gelu":
        return bias_gelu(x, bias)
    return activation(x if bias is None else flow._C.bias_add(x, bias, axis=1), name)


def bias_dropout_add(x: flow.Tensor, bias: flow.Tensor | None, residual: flow.Tensor, rate: float) -> flow.Tensor:
    """residual + dropout(x + bias); x and residual [R, H], bias [H] or None."""
    if bias is None:
        return residual + dropout(x, rate)
    if rate and _fused(x) and not takes_masks(x):
        return residual + flow._C.fused_bias_add_dropout(x, bias, p=rate, axis=1, generator=dropout_generator(x))
    return residual + dropout(flow._C.bias_add(x, bias, axis=1), rate)


def attention_probs(scores: flow.Tensor, keep: flow.Tensor, scale: float, rate: float) -> flow.Tensor:
    """dropout(softmax(scores * scale)) over the positions in `keep`; scores [B, N, S, S], keep bool [B, 1, 1, S]."""
    if not _fused(scores):
        mask = (1.0 - keep.to(scores.dtype)) * MASKED_SCORE
        return dropout(flow.softmax(scores * scale + mask, dim=-1), rate)
    if not rate or takes_masks(scores):
        probs = flow._C.fused_scale_mask_softmax(scores, keep, fill_value=MASKED_SCORE, scale=scale)
        return dropout(probs, rate)
    return flow._C.fused_scale_mask_softmax_dropout(
        scores, keep, fill_value=MASKED_SCORE, scale=scale, p=rate, generator=dropout_generator(scores)
    )[0]


def _fused(x: flow.Tensor) -> bool:
    return x.is_cuda or kernels.is_loaded()
