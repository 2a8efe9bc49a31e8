"""Each operation against numpy, values and gradients, fused and composed."""

import math

import numpy as np
import oneflow as flow
import pytest

import kernels
from modeling import dropout, ops

R, INPUT, H = 7, 5, 13  # rows, input features, output features
# The composed form is for stock CPU kernels, but runs on any.
FORMS = ["composed", "fused"] if kernels.is_loaded() else ["composed"]


@pytest.fixture(params=FORMS, autouse=True)
def form(request, monkeypatch):
    if request.param == "composed":
        monkeypatch.setattr(kernels, "is_loaded", lambda: False)


def normal(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def check(function, reference, *arrays):
    """Compare values, and gradients with the reference's central differences in float64."""
    tensors = [flow.tensor(array.astype(np.float32), requires_grad=True) for array in arrays]
    output, expected = function(*tensors), reference(*arrays)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-5, atol=1e-5)
    slope = normal(*expected.shape, seed=9)
    (output * flow.tensor(slope.astype(np.float32))).sum().backward()
    for tensor, array in zip(tensors, arrays, strict=True):
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            values = []
            for step in (1e-5, -1e-5):
                array[index] += step
                values.append((reference(*arrays) * slope).sum())
                array[index] -= step
            gradient[index] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-4, atol=1e-4)


def test_layer_norm():
    def reference(x, weight, bias):
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12) * weight + bias

    check(
        lambda *tensors: ops.layer_norm(*tensors, eps=1e-12), reference, 3 + normal(R, H), normal(H), normal(H, seed=1)
    )


def test_linear():
    check(ops.linear, lambda x, weight, bias: x @ weight.T + bias, normal(R, INPUT), normal(H, INPUT), normal(H))
    check(
        lambda x, weight: ops.linear(x, weight, None),
        lambda x, weight: x @ weight.T,
        normal(R, INPUT),
        normal(H, INPUT),
    )


def test_bias_gelu():
    check(ops.bias_gelu, lambda x, bias: gelu(x + bias), 2 * normal(R, H), normal(H))
    check(lambda x: ops.bias_gelu(x, None), gelu, 2 * normal(R, H))


def test_bias_dropout_add_at_rate_0():
    def without_dropout(x, bias, residual):
        return ops.bias_dropout_add(x, bias, residual, 0.0)

    check(without_dropout, lambda x, bias, residual: residual + x + bias, normal(R, H), normal(H), normal(R, H, seed=1))
    check(lambda x, residual: without_dropout(x, None, residual), np.add, normal(R, H), normal(R, H, seed=1))


@pytest.mark.parametrize("has_bias", [True, False])
def test_bias_dropout_add_drops_the_sum_but_not_the_residual(has_bias):
    x, bias, residual = 5 + normal(R, H), normal(H) if has_bias else np.zeros(H), normal(R, H, seed=1)
    tensors = [flow.tensor(array.astype(np.float32)) for array in (x, bias, residual)]
    dropout.begin_step(1, 2, 0)
    dropped = ops.bias_dropout_add(tensors[0], tensors[1] if has_bias else None, tensors[2], 0.4).numpy() - residual
    kept = np.abs(dropped) > 1e-3
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(dropped, np.where(kept, (x + bias) / 0.6, 0), rtol=1e-4, atol=1e-4)


BATCH, HEADS, LENGTH = 2, 3, 5
KEEP = np.arange(LENGTH) < np.array([LENGTH, 3])[:, None, None, None]  # [B, 1, 1, S]


def attention(scores):
    powers = np.exp(0.7 * scores) * KEEP
    return powers / powers.sum(-1, keepdims=True)


def test_attention_probs_at_rate_0():
    scores = 2 * normal(BATCH, HEADS, LENGTH, LENGTH)
    check(lambda tensor: ops.attention_probs(tensor, flow.tensor(KEEP), 0.7, 0.0), attention, scores)


def test_attention_probs_drop_and_scale():
    scores = normal(BATCH, HEADS, LENGTH, LENGTH)
    dropout.begin_step(1, 2, 0)
    probs = ops.attention_probs(flow.tensor(scores.astype(np.float32)), flow.tensor(KEEP), 0.7, 0.4).numpy()
    kept = probs > 0
    assert 0 < kept[np.broadcast_to(KEEP, kept.shape)].mean() < 1
    np.testing.assert_allclose(probs, np.where(kept, attention(scores) / 0.6, 0), rtol=1e-4, atol=1e-6)
