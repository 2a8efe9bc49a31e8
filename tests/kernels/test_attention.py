"""Attention without the matrix of scores, against float64 and against the path with the matrix."""

import dataclasses
import math

import numpy as np
import oneflow as flow
import pytest
from oneflow import nn

import kernels
from modeling import bert, dropout
from modeling.attention import Rows, attention

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")

HEADS = 3
SLOPES = (0.5, 0.25, 0.0)


def numbers_of(kind, batch, length):
    """int32 [batch, length]: numbers of sequences."""
    numbers = np.ones((batch, length), np.int32)
    if kind == "padded":
        numbers[-1, length // 2 + 1 :] = 0
        numbers[0, length // 3 : length // 3 + 2] = 0  # in the middle
        numbers[0, 0] = 1
    if kind == "packed":
        numbers = np.cumsum(np.arange(batch * length).reshape(batch, length) % 29 == 0, axis=1).astype(np.int32)
        numbers[:, : length // 8] = 0
    return numbers


def expected(query, key, value, numbers, reach, slopes, slope, factors=None):
    """The context and the gradients of query, key and value in float64, by the formulas."""
    batch, length = numbers.shape
    split = [
        x.astype(np.float64).reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3) for x in (query, key, value, slope)
    ]
    query, key, value, slope = split
    scale = 1 / math.sqrt(query.shape[-1])
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    scores = query @ key.swapaxes(2, 3) * scale
    scores -= np.array(slopes or [0] * HEADS).reshape(1, HEADS, 1, 1) * distance
    allowed = (numbers[:, :, None] == numbers[:, None]) & (numbers != 0)[:, None]
    allowed &= distance <= (length if reach is None else reach)
    scores = np.where(allowed[:, None], scores, -np.inf)
    highest = scores.max(-1, keepdims=True, initial=-1e30)
    probs = np.exp(scores - highest)
    probs /= np.maximum(probs.sum(-1, keepdims=True), 1e-300)
    dropped = probs if factors is None else probs * factors
    slope_of_probs = slope @ value.swapaxes(2, 3) * (1 if factors is None else factors)
    slope_of_scores = probs * (slope_of_probs - (probs * slope_of_probs).sum(-1, keepdims=True))
    results = (
        dropped @ value,
        slope_of_scores @ key * scale,
        slope_of_scores.swapaxes(2, 3) @ query * scale,
        dropped.swapaxes(2, 3) @ slope,
    )
    return [x.transpose(0, 2, 1, 3).reshape(batch * length, -1) for x in results]


def computed(query, key, value, numbers, slope, packed=True, **settings):
    """The same by the kernel."""
    leaves = [flow.tensor(x, requires_grad=True) for x in (query, key, value)]
    context = attention(*leaves, Rows(flow.tensor(numbers), packed), heads=HEADS, **settings)
    (context * flow.tensor(slope)).sum().backward()
    return [context.numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def draw(batch, length, size, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((batch * length, HEADS * size), np.float32) for _ in range(4)]


def check(actual, wanted, tolerance=3e-6):
    for ours, theirs in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("kind", ["whole", "padded", "packed"])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 130, 199])
@pytest.mark.parametrize(("reach", "slopes"), [(None, ()), (3, ()), (70, SLOPES)])
def test_results_and_gradients_equal_float64(kind, length, reach, slopes):
    query, key, value, slope = draw(2, length, 5)
    numbers = numbers_of(kind, 2, length)
    wanted = expected(query, key, value, numbers, reach, slopes, slope)
    check(computed(query, key, value, numbers, slope, reach=reach, slopes=slopes), wanted)


@pytest.mark.parametrize("size", [1, 16, 37, 64])
def test_head_sizes(size):
    query, key, value, slope = draw(1, 70, size)
    numbers = numbers_of("whole", 1, 70)
    check(computed(query, key, value, numbers, slope), expected(query, key, value, numbers, None, (), slope))


def begin(step):
    dropout.begin_step(5, step, 1)
    dropout.restart()


@pytest.mark.parametrize("length", [37, 128, 130])
def test_dropout_masks_are_those_of_the_matrix(length):
    query, key, value, slope = draw(2, length, 7)
    numbers = numbers_of("padded", 2, length)
    tokens = numbers.reshape(-1) != 0
    slope[~tokens] = 0  # with the matrix, padding attends to tokens
    results = []
    for packed in (False, True):
        begin(3)
        results.append(computed(query, key, value, numbers, slope, packed, rate=0.3))
        results[-1][0][~tokens] = 0
    check(*results)


class Layer(nn.Module):
    """Attention with parameters for inputs."""

    def __init__(self, query, key, value):
        super().__init__()
        self.query, self.key, self.value = (nn.Parameter(flow.tensor(x)) for x in (query, key, value))

    def forward(self, numbers, slope):
        inputs = [flow._C.identity(x) for x in (self.query, self.key, self.value)]
        return (attention(*inputs, Rows(numbers, True), heads=HEADS, rate=0.3, reach=9) * slope).sum()


class Compiled(nn.Graph):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.add_optimizer(flow.optim.SGD(layer.parameters(), lr=1.0))

    def build(self, numbers, slope):
        loss = self.layer(numbers, slope)
        loss.backward()
        return loss


def test_a_compiled_job_equals_eager_mode():
    query, key, value, slope = draw(2, 66, 5)
    inputs = flow.tensor(numbers_of("packed", 2, 66)), flow.tensor(slope)
    layers = [Layer(query, key, value) for _ in range(2)]
    job = Compiled(layers[1])
    optimizer = flow.optim.SGD(layers[0].parameters(), lr=1.0)
    for step in range(3):
        begin(step)
        loss = layers[0](*inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        begin(step)
        assert float(job(*inputs).numpy()) == float(loss.numpy())
    for eager, compiled in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert np.array_equal(eager.numpy(), compiled.numpy())


def test_a_very_long_row_computes_feed_forward_networks_again_with_equal_gradients(tiny_config, monkeypatch):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    ids = np.random.default_rng(0).integers(5, 37, (2, 11)).astype(np.int32)
    gradients = []
    for limit in (12, 11):
        monkeypatch.setattr(bert, "_VERY_LONG_ROW", limit)
        model = bert.BertModel(config, seed=1)
        model.train()
        dropout.begin_step(5, 3, 0)
        model(flow.tensor(ids))["sequence_output"].sin().sum().backward()
        gradients.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert np.array_equal(gradients[1][name], expected), name
