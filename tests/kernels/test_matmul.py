"""Matrix products beyond the cases of kernels/check.py: large ones, fused additions, bf16, held weights."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from kernels import check

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")
has_bf16 = pytest.mark.skipif(not kernels.load().bf16, reason="needs a CPU with bf16 matrix instructions")


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_large_products_and_their_gradients(transpose_a, transpose_b):
    """Products of this size go through oneDNN's sgemm."""
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


@pytest.mark.parametrize("size", [(7, 5, 3), (907, 1031, 769)], ids=str)
def test_a_compiled_job_fuses_an_addition_into_the_product(size):
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


@has_bf16
def test_bf16_products_round_only_their_operands():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((65, 130), np.float32), rng.standard_normal((130, 33), np.float32)

    def rounded(x):  # to 8 significant bits, ties to even
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)

    assert kernels.set_bf16(True)
    try:
        product = flow._C.matmul(flow.tensor(a), flow.tensor(b)).numpy()
    finally:
        kernels.set_bf16(False)
    np.testing.assert_allclose(product, rounded(a) @ rounded(b), rtol=1e-4, atol=1e-4)
    assert np.abs(product - a @ b).max() > 1e-4


@has_bf16
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
        weights.numpy()[:] = 0  # breaks the promise on purpose: held weights are not read again
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
