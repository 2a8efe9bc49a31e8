"""Inputs that the cases of kernels/check.py do not have: empty, strided, extreme, out of range."""

import numpy as np
import oneflow as flow
import pytest

import kernels

ours = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")


@ours
def test_sums_over_nothing_are_zero():
    nothing = flow.zeros(0, 5)
    assert not flow.sum(nothing, dim=0).numpy().any()
    product = flow._C.matmul(flow.zeros(3, 0), flow.zeros(0, 4)).numpy()
    assert product.shape == (3, 4) and not product.any()


@ours
def test_empty_batches_give_empty_results():
    nothing, weight = flow.zeros(0, 5), flow.ones(5)
    assert flow._C.gelu(nothing).shape == (0, 5)
    assert flow.softmax(nothing, dim=-1).shape == (0, 5)
    assert flow._C.matmul(nothing, flow.ones(5, 3)).shape == (0, 3)
    assert flow._C.layer_norm_affine(nothing, weight, weight, 1, 1, 1e-12).shape == (0, 5)


def test_strided_inputs():
    x = np.random.default_rng(0).standard_normal((6, 10), np.float32)
    view = flow.tensor(x)[:, ::2].transpose(0, 1)  # [5, 6], strided both ways
    expected = x[:, ::2].T
    softmax = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(flow.softmax(view, dim=-1).numpy(), softmax, rtol=1e-5)
    np.testing.assert_allclose(flow._C.matmul(view, view, transpose_b=True).numpy(), expected @ expected.T, rtol=1e-4)
    np.testing.assert_allclose(flow.sum(view, dim=0).numpy(), expected.sum(0), rtol=1e-4, atol=1e-6)


@ours
def test_extreme_values_do_not_overflow_and_nan_stays_nan():
    scores = flow.tensor([[1e4, -1e4, 0.0], [-1e30, -1e30, -1e30], [88.0, 89.0, 90.0]])
    probs = flow.softmax(scores, dim=-1).numpy()
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)
    assert probs[0, 0] == 1 and probs[0, 1] == 0
    far = flow._C.gelu(flow.tensor([-100.0, -20.0, 20.0, 100.0])).numpy()
    np.testing.assert_array_equal(far, [0, 0, 20, 100])
    assert np.isnan(flow._C.gelu(flow.tensor([float("nan")])).numpy()).all()
    assert np.isnan(flow.softmax(flow.tensor([[float("nan"), 1.0]]), dim=-1).numpy()).any()
    loss = flow._C.sparse_softmax_cross_entropy(flow.tensor([[0.0, 1e4]]), flow.tensor([0]))
    assert loss.item() == 1e4


@ours
def test_lookups_outside_the_table_give_zeros():
    table = flow.ones(3, 2)
    assert flow._C.gather(table, flow.tensor([0, 7, -1]), axis=0).numpy().tolist() == [[1, 1], [0, 0], [0, 0]]
