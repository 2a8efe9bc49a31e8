"""Weighted losses and accuracies against numpy."""

import numpy as np
import oneflow as flow
import pytest

from modeling import losses

K, C = 7, 5  # items, classes


@pytest.fixture
def items():
    """Logits [K, C], labels [K] and weights [K], the last two items being padding."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((K, C), np.float32) * 2
    labels = np.where(rng.random(K) < 0.5, logits.argmax(-1), rng.integers(0, C, K)).astype(np.int32)
    return logits, labels, np.array([1, 0.5, 1, 2, 1, 0, 0], np.float32)


def tensors(items):
    return [flow.tensor(array) for array in items]


def probabilities(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_and_its_gradient(items, reduction):
    logits, labels, weights = items
    divisor = weights.sum() if reduction == "mean" else 1.0
    probs = probabilities(logits)
    leaf = flow.tensor(logits, requires_grad=True)
    loss = losses.cross_entropy(leaf, flow.tensor(labels), flow.tensor(weights), reduction)
    assert loss.item() == pytest.approx((-np.log(probs[np.arange(K), labels]) * weights).sum() / divisor, rel=1e-5)
    loss.backward()
    expected = (probs - np.eye(C)[labels]) * weights[:, None] / divisor
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accuracy_is_the_weighted_share_of_correct_items(items, reduction):
    logits, labels, weights = items
    correct = ((logits.argmax(-1) == labels) * weights).sum()
    assert 0 < correct < weights.sum()
    expected = correct / weights.sum() if reduction == "mean" else correct
    assert losses.accuracy(*tensors(items), reduction).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("function", [losses.cross_entropy, losses.accuracy])
def test_sums_of_parts_add_up_to_the_mean_of_the_whole(items, function):
    logits, labels, weights = items
    whole = function(*tensors(items), "mean").item()
    weights = weights / weights.sum()
    parts = [slice(0, 3), slice(3, K)]
    total = sum(function(*tensors((logits[p], labels[p], weights[p])), "sum").item() for p in parts)
    assert total == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_padding_has_loss_0(items, reduction):
    logits, labels, weights = items
    leaf = flow.tensor(logits, requires_grad=True)
    loss = losses.cross_entropy(leaf, flow.tensor(labels), flow.tensor(np.zeros_like(weights)), reduction)
    loss.backward()
    assert loss.item() == 0 and not leaf.grad.numpy().any()


def test_padding_items_do_not_change_the_loss(items):
    logits, labels, weights = items
    changed = logits.copy()
    changed[5:] += 3
    values = [losses.cross_entropy(*tensors((array, labels, weights)), "mean").item() for array in (logits, changed)]
    assert values[0] == values[1]
