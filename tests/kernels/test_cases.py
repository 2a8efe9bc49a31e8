"""Every kernel against numpy over many shapes, with our kernels and with stock ones where the op exists there."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from kernels import check

SHAPES = [(1, 1), (1, 13), (5, 1), (2, 2), (7, 37), (31, 64), (130, 257), (17, 1031)]
TOLERANCE = 1e-5
# Stock OneFlow has no CPU kernel for the fused ops, and its LAMB is another formula.
OURS_ONLY = {name for name in check.CASES if name.startswith("fused_")} | {"lamb_update"}
ours = pytest.mark.skipif(not kernels.is_loaded(), reason="of our kernels, which are not loaded")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [pytest.param(n, marks=ours) if n in OURS_ONLY else n for n in check.CASES])
def test_agrees_with_numpy(name, shape):
    assert check.largest_error(name, *shape, seed=sum(shape)) < TOLERANCE


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", [pytest.param(n, marks=ours) if n in OURS_ONLY else n for n in check.CASES])
def test_agrees_with_numpy_over_random_shapes(name, seed):
    rows, columns = np.random.default_rng(seed).integers(1, 90, 2)
    assert check.largest_error(name, int(rows), int(columns), seed) < TOLERANCE


@ours
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_large_products(transpose_a, transpose_b):
    """Those that are packed first, and their gradients, which are as large."""
    rows, inner, columns = 907, 1031, 769
    rng = np.random.default_rng(1)
    a, b, slope = check.draw(rng, rows, inner), check.draw(rng, inner, columns), check.draw(rng, rows, columns)
    x, y = check.leaf(a.T.copy() if transpose_a else a), check.leaf(b.T.copy() if transpose_b else b)
    product = flow._C.matmul(x, y, transpose_a=transpose_a, transpose_b=transpose_b, alpha=0.5)
    dx, dy = check.backward(product, slope, x, y)
    wide_a, wide_b, wide_slope = (array.astype(np.float64) for array in (a, b, slope))
    np.testing.assert_allclose(product.numpy(), 0.5 * wide_a @ wide_b, atol=1e-4)
    np.testing.assert_allclose(dx.T if transpose_a else dx, 0.5 * wide_slope @ wide_b.T, atol=1e-4)
    np.testing.assert_allclose(dy.T if transpose_b else dy, 0.5 * wide_a.T @ wide_slope, atol=1e-4)


@ours
@pytest.mark.parametrize("size", [(7, 5, 3), (907, 1031, 769)], ids=str)
def test_products_that_a_compiled_job_adds_to(size):
    class Sum(flow.nn.Graph):
        def __init__(self):
            super().__init__()
            self.config.allow_fuse_add_to_output(True)

        def build(self, a, b, c):
            return flow._C.matmul(a, b) + c

    rng, (rows, inner, columns) = np.random.default_rng(2), size
    arrays = check.draw(rng, rows, inner), check.draw(rng, inner, columns), check.draw(rng, rows, columns)
    graph = Sum()
    result = graph(*map(flow.tensor, arrays)).numpy()
    a, b, c = (array.astype(np.float64) for array in arrays)
    np.testing.assert_allclose(result, a @ b + c, atol=1e-4)
    assert "_add_to_output" in str(graph._full_graph_proto)


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


def test_non_contiguous_inputs():
    x = np.random.default_rng(0).standard_normal((6, 10), np.float32)
    view = flow.tensor(x)[:, ::2].transpose(0, 1)  # [5, 6], strided both ways
    expected = x[:, ::2].T
    softmax = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(flow.softmax(view, dim=-1).numpy(), softmax, rtol=1e-5)
    np.testing.assert_allclose(flow._C.matmul(view, view, transpose_b=True).numpy(), expected @ expected.T, rtol=1e-4)
    np.testing.assert_allclose(flow.sum(view, dim=0).numpy(), expected.sum(0), rtol=1e-4, atol=1e-6)


@ours
def test_extreme_values():
    """Softmax, GELU and cross entropy neither overflow nor lose what is not a number."""
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
def test_rows_outside_the_table_are_zero():
    table = flow.ones(3, 2)
    assert flow._C.gather(table, flow.tensor([0, 7, -1]), axis=0).numpy().tolist() == [[1, 1], [0, 0], [0, 0]]


@ours
@pytest.mark.skipif(not kernels.load().bf16, reason="the CPU multiplies no bf16")
def test_bf16_products_round_their_operands_only():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((65, 130), np.float32), rng.standard_normal((130, 33), np.float32)

    def rounded(x):  # to 8 bits of mantissa, to nearest even
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)

    assert kernels.set_bf16(True)
    try:
        product = flow._C.matmul(flow.tensor(a), flow.tensor(b)).numpy()
    finally:
        kernels.set_bf16(False)
    np.testing.assert_allclose(product, rounded(a) @ rounded(b), rtol=1e-4, atol=1e-4)
    assert np.abs(product - a @ b).max() > 1e-4


@ours
@pytest.mark.skipif(not kernels.load().bf16, reason="the CPU multiplies no bf16")
def test_held_weights_give_the_same_products_until_they_are_released():
    rng = np.random.default_rng(4)
    weights, rows = flow.tensor(check.draw(rng, 37, 65)), flow.tensor(check.draw(rng, 7, 65))

    def product():
        return flow._C.matmul(rows, weights, transpose_b=True).numpy()

    kernels.set_bf16(True)
    try:
        before = product()
        first, second = kernels.hold_weights([weights]), kernels.hold_weights([weights, flow.ones(5)])
        np.testing.assert_allclose(product(), before, rtol=0, atol=1e-5)
        first()
        np.testing.assert_allclose(product(), before, rtol=0, atol=1e-5)
        weights.numpy()[:] = 0  # against what was promised: held weights are not looked at again
        np.testing.assert_allclose(product(), before, rtol=0, atol=1e-5)
        second()
        assert not product().any()

        square = flow.tensor(check.draw(rng, 65, 65))
        products = [flow._C.matmul(rows, square, transpose_b=transposed).numpy() for transposed in (False, True)]
        release = kernels.hold_weights([square])
        for transposed, expected in enumerate(products):
            held = flow._C.matmul(rows, square, transpose_b=bool(transposed)).numpy()
            np.testing.assert_allclose(held, expected, rtol=0, atol=1e-5)
        release()
    finally:
        kernels.set_bf16(False)
