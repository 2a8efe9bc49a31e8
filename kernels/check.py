"""Compares each kernel with numpy.

A case in `CASES` runs an op forward and backward at a given size and yields pairs of OneFlow's and numpy's results.
`python -m kernels` runs all cases on a few sizes, and the tests run them on many. `rows` and `columns` are the main
sizes of a case; most of its tensors are [rows, columns].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import oneflow as flow

from kernels import plugin

Array = np.ndarray
Results = Iterator[tuple[Array, Array]]  # (actual, expected)
Case = Callable[[np.random.Generator, int, int], Results]

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Add a function to `CASES`."""
    CASES[function.__name__] = function
    return function


def largest_error(name: str, rows: int, columns: int, seed: int = 0) -> float:
    """The largest difference between a case's results and numpy's; NaN if there is a NaN.

    Each difference is relative to the largest absolute value of the expected array, or to 1 if that is larger.

    Raises:
        AssertionError: a result has a wrong shape.
    """
    errors = [0.0]
    for ours, expected in CASES[name](np.random.default_rng(seed), rows, columns):
        assert ours.shape == expected.shape, f"{name}: shape {ours.shape}, expected {expected.shape}"
        if ours.size:
            scale = max(np.abs(expected).max(), 1.0)
            errors.append(float(np.abs(ours.astype(np.float64) - expected).max() / scale))
    return max(errors) if not any(map(math.isnan, errors)) else math.nan


def gemm_speed(
    rows: int = 1024,
    inner: int = 768,
    columns: int = 3072,
    repeats: int = 20,
    device: str = "cpu",
    dtype: flow.dtype = flow.float32,
) -> float:
    """Floating-point operations per second of the fastest of `repeats` products [rows, inner] x [inner, columns]."""
    a, b = (flow.randn(size, inner, device=device).to(dtype) for size in (rows, columns))
    best = math.inf
    for _ in range(repeats):
        flow._oneflow_internal.eager.Sync()
        start = time.perf_counter()
        flow._C.matmul(a, b, transpose_b=True)
        flow._oneflow_internal.eager.Sync()
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


def draw(rng: np.random.Generator, *shape: int) -> Array:
    """Standard normal float32 values."""
    return rng.standard_normal(shape, np.float32)


def leaf(array: Array) -> flow.Tensor:
    """A leaf tensor with these values and gradients enabled."""
    return flow.tensor(array, requires_grad=True)


def backward(result: flow.Tensor, slope: Array, *leaves: flow.Tensor) -> list[Array]:
    """The gradients of sum(result * slope) with respect to the leaves."""
    (result * flow.tensor(slope)).sum().backward()
    return [tensor.grad.numpy() for tensor in leaves]


@case
def matmul(rng: np.random.Generator, rows: int, columns: int) -> Results:
    inner = rows % 5 + 3
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            a, b = draw(rng, rows, inner), draw(rng, inner, columns)
            x, y = leaf(a.T.copy() if transpose_a else a), leaf(b.T.copy() if transpose_b else b)
            out = flow._C.matmul(x, y, transpose_a=transpose_a, transpose_b=transpose_b, alpha=0.5)
            slope = draw(rng, rows, columns)
            dx, dy = backward(out, slope, x, y)
            yield out.numpy(), 0.5 * a @ b
            yield dx.T if transpose_a else dx, 0.5 * slope @ b.T
            yield dy.T if transpose_b else dy, 0.5 * a.T @ slope


@case
def batch_matmul(rng: np.random.Generator, rows: int, columns: int) -> Results:
    a, b = draw(rng, 2, 3, rows, 5), draw(rng, 2, 3, columns, 5)
    x, y = leaf(a), leaf(b)
    out = flow._C.matmul(x, y, transpose_b=True)
    slope = draw(rng, 2, 3, rows, columns)
    dx, dy = backward(out, slope, x, y)
    yield out.numpy(), a @ b.swapaxes(2, 3)
    yield dx, slope @ b
    yield dy, slope.swapaxes(2, 3) @ a


@case
def broadcast_matmul(rng: np.random.Generator, rows: int, columns: int) -> Results:
    a, b = draw(rng, 2, rows, 5), draw(rng, 5, columns)
    x, y = leaf(a), leaf(b)
    out = flow.matmul(x, y)
    slope = draw(rng, 2, rows, columns)
    dx, dy = backward(out, slope, x, y)
    yield out.numpy(), a @ b
    yield dx, slope @ b.T
    yield dy, np.einsum("brk,brc->kc", a, slope)
    a, b = draw(rng, 1, 3, rows, 5), draw(rng, 2, 1, 5, columns)
    yield flow.matmul(flow.tensor(a), flow.tensor(b)).numpy(), a @ b


@case
def layer_norm(rng: np.random.Generator, rows: int, columns: int) -> Results:
    epsilon = 1e-12 if columns > 1 else 1e-5
    x, gamma, beta, slope = (
        draw(rng, rows, columns) + 3,
        draw(rng, columns),
        draw(rng, columns),
        draw(rng, rows, columns),
    )
    tensors = [leaf(x), leaf(gamma), leaf(beta)]
    y = flow._C.layer_norm_affine(*tensors, begin_norm_axis=1, begin_params_axis=1, epsilon=epsilon)
    dx, dgamma, dbeta = backward(y, slope, *tensors)
    wide = x.astype(np.float64)
    inv = 1 / np.sqrt(wide.var(1, keepdims=True) + epsilon)
    normal = (wide - wide.mean(1, keepdims=True)) * inv
    g = slope * gamma
    yield y.numpy(), normal * gamma + beta
    if columns > 2:  # with one or two columns the exact gradient is about 0, so only rounding errors remain
        yield dx, inv * (g - g.mean(1, keepdims=True) - normal * (g * normal).mean(1, keepdims=True))
    yield dgamma, (slope * normal).sum(0)
    yield dbeta, slope.sum(0)


def _gelu(x: Array) -> tuple[Array, Array]:
    """GELU and its derivative, in float64."""
    phi = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[np.float64])(x)
    return x * phi, phi + x * np.exp(-(x.astype(np.float64) ** 2) / 2) / math.sqrt(2 * math.pi)


@case
def gelu(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, slope = 3 * draw(rng, rows, columns), draw(rng, rows, columns)
    tensor = leaf(x)
    y = flow._C.gelu(tensor)
    (dx,) = backward(y, slope, tensor)
    value, derivative = _gelu(x)
    yield y.numpy(), value
    yield dx, slope * derivative


@case
def fused_bias_add_gelu(rng: np.random.Generator, rows: int, columns: int) -> Results:
    for shape, axis in (((rows, columns), 1), ((2, rows, columns), 1)):
        x, bias, slope = 2 * draw(rng, *shape), draw(rng, shape[axis]), draw(rng, *shape)
        tensors = [leaf(x), leaf(bias)]
        y = flow._C.fused_bias_add_gelu(*tensors, axis=axis)
        dx, dbias = backward(y, slope, *tensors)
        others = tuple(i for i in range(len(shape)) if i != axis)
        value, derivative = _gelu(x + np.expand_dims(bias, others))
        yield y.numpy(), value
        yield dx, slope * derivative
        yield dbias, (slope * derivative).sum(others)


def _softmax(x: Array) -> Array:
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@case
def softmax(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, slope = 5 * draw(rng, rows, columns), draw(rng, rows, columns)
    tensor = leaf(x)
    y = flow.softmax(tensor, dim=-1)
    (dx,) = backward(y, slope, tensor)
    probs = _softmax(x)
    yield y.numpy(), probs
    if columns > 1:
        yield dx, probs * (slope - (slope * probs).sum(-1, keepdims=True))


@case
def fused_scale_mask_softmax(rng: np.random.Generator, rows: int, columns: int) -> Results:
    yield from _attention_probs(rng, rows, columns, 0.0)


@case
def fused_scale_mask_softmax_dropout(rng: np.random.Generator, rows: int, columns: int) -> Results:
    yield from _attention_probs(rng, rows, columns, 0.3)


def _attention_probs(rng: np.random.Generator, rows: int, columns: int, rate: float) -> Results:
    for mask_shape in ((2, 1, 1, columns), (2, 3, rows, columns)):
        x, slope = 5 * draw(rng, 2, 3, rows, columns), draw(rng, 2, 3, rows, columns)
        mask = rng.random(mask_shape) < 0.7
        mask[..., 0] = True
        tensor, arguments = leaf(x), {"fill_value": -1e4, "scale": 0.5}
        if rate:
            y, probs = flow._C.fused_scale_mask_softmax_dropout(tensor, flow.tensor(mask), p=rate, **arguments)
            kept = y.numpy() != 0
        else:
            y = probs = flow._C.fused_scale_mask_softmax(tensor, flow.tensor(mask), **arguments)
            kept = np.ones(x.shape, bool)
        (dx,) = backward(y, slope, tensor)
        expected = _softmax(np.where(mask, 0.5 * x, -1e4))
        g = slope * kept / (1 - rate)
        yield probs.numpy(), expected
        yield y.numpy(), np.where(kept, expected / (1 - rate), 0)
        if columns > 1:
            yield dx, np.where(mask, 0.5 * expected * (g - (g * expected).sum(-1, keepdims=True)), 0)


@case
def fused_attention(rng: np.random.Generator, rows: int, columns: int) -> Results:
    query, key, value, slope = (draw(rng, rows, columns) for _ in range(4))
    inputs = [flow.tensor(x) for x in (query, key, value, np.ones((1, rows), np.int32))]
    settings = (1, -1, (), 0.0, 0)  # one head, no window, no ALiBi, no dropout, no seed
    outputs = plugin.call_attention(0, inputs, *settings)
    gradients = plugin.call_attention(1, [*inputs, *outputs, flow.tensor(slope)], *settings)
    scale = 1 / math.sqrt(columns)
    probs = _softmax(scale * query.astype(np.float64) @ key.T)
    slope_of_probs = slope @ value.T
    slope_of_scores = probs * (slope_of_probs - (slope_of_probs * probs).sum(-1, keepdims=True))
    yield outputs[0].numpy(), probs @ value
    yield gradients[0].numpy(), scale * slope_of_scores @ key
    yield gradients[1].numpy(), scale * slope_of_scores.T @ query
    yield gradients[2].numpy(), probs.T @ slope


@case
def dropout(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, slope, addend = draw(rng, rows, columns), draw(rng, rows, columns), draw(rng, rows, columns)
    tensor, other = leaf(x), leaf(addend)
    y = flow._C.dropout(tensor, p=0.3, training=True, addend=other)
    kept = (y - other).abs().numpy() > 0
    dx, dother = backward(y, slope, tensor, other)
    yield y.numpy(), np.where(kept, x / 0.7, 0) + addend
    yield dx, np.where(kept, slope / 0.7, 0)
    yield dother, slope


@case
def fused_bias_add_dropout(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, bias, slope = draw(rng, rows, columns), draw(rng, columns), draw(rng, rows, columns)
    tensors = [leaf(x), leaf(bias)]
    y = flow._C.fused_bias_add_dropout(*tensors, p=0.3, axis=1)
    kept = y.numpy() != 0
    dx, dbias = backward(y, slope, *tensors)
    yield y.numpy(), np.where(kept, (x + bias) / 0.7, 0)
    yield dx, np.where(kept, slope / 0.7, 0)
    yield dbias, np.where(kept, slope / 0.7, 0).sum(0)


@case
def bias_add(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, bias, slope = draw(rng, rows, columns), draw(rng, columns), draw(rng, rows, columns)
    tensors = [leaf(x), leaf(bias)]
    y = flow._C.bias_add(*tensors, axis=1)
    dx, dbias = backward(y, slope, *tensors)
    yield y.numpy(), x + bias
    yield dx, slope
    yield dbias, slope.sum(0)


@case
def reduce_sum(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x = draw(rng, rows, 3, columns) + 2  # avoids sums near 0, whose relative rounding errors are large
    for axes in ((0,), (0, 1), (2,), (1,), (0, 2), (0, 1, 2)):
        yield flow.sum(flow.tensor(x), dim=axes).numpy(), x.astype(np.float64).sum(axes)
    x, slope = draw(rng, columns), draw(rng, rows, columns)  # the gradient of a broadcast uses reduce_sum_like
    tensor = leaf(x)
    (dx,) = backward(flow.zeros(rows, columns) + tensor, slope, tensor)
    yield dx, slope.sum(0)


@case
def broadcast(rng: np.random.Generator, rows: int, columns: int) -> Results:
    shapes = [((rows, columns), (columns,)), ((rows, columns), (rows, 1)), ((1,), (rows, columns))]
    shapes += [((2, 1, columns), (1, rows, 1)), ((2, rows, columns), (2, rows, 1)), ((rows, 1, 3), (columns, 1))]
    for one, other in shapes:
        a, b = draw(rng, *one), 2 + rng.random(other, np.float32)
        x, y = flow.tensor(a), flow.tensor(b)
        for ours, expected in ((x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b)):
            yield ours.numpy(), expected


@case
def norm(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x = draw(rng, rows, columns)
    yield flow.linalg.vector_norm(flow.tensor(x), 2.0).numpy(), np.array(np.linalg.norm(x.astype(np.float64)))


@case
def add_n(rng: np.random.Generator, rows: int, columns: int) -> Results:
    terms = [draw(rng, rows, columns) for _ in range(5)]
    for number in (2, 3, 5):
        yield flow.add(*[flow.tensor(term) for term in terms[:number]]).numpy(), np.sum(terms[:number], axis=0)


@case
def gather(rng: np.random.Generator, rows: int, columns: int) -> Results:
    table = draw(rng, rows, columns)
    for kind in (np.int32, np.int64):
        picks = rng.integers(0, rows, (3, 4)).astype(kind)
        tensor, slope = leaf(table), draw(rng, 3, 4, columns)
        y = flow._C.gather(tensor, flow.tensor(picks), axis=0)
        (dtable,) = backward(y, slope, tensor)
        expected = np.zeros_like(table)
        np.add.at(expected, picks.astype(np.intp), slope)
        yield y.numpy(), table[picks]
        yield dtable, expected
        picks = rng.integers(0, columns, 5).astype(kind)
        yield flow._C.gather(flow.tensor(table), flow.tensor(picks), axis=1).numpy(), table[:, picks]


@case
def sparse_softmax_cross_entropy(rng: np.random.Generator, rows: int, columns: int) -> Results:
    for kind in (np.int32, np.int64):
        scores, labels = 3 * draw(rng, rows, columns), rng.integers(0, columns, rows).astype(kind)
        tensor, slope = leaf(scores), draw(rng, rows)
        loss = flow._C.sparse_softmax_cross_entropy(tensor, flow.tensor(labels))
        (dscores,) = backward(loss, slope, tensor)
        probs = _softmax(scores)
        if columns > 1:
            yield loss.numpy(), -np.log(probs[np.arange(rows), labels])
            yield dscores, slope[:, None] * (probs - np.eye(columns)[labels])


@case
def transpose(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x = draw(rng, 2, rows, 3, columns)
    for order in ((0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 3, 2)):
        yield flow.tensor(x).permute(*order).contiguous().numpy(), x.transpose(order)
    narrow = x[:, : (rows + 1) // 2, ::2]
    yield flow.tensor(x)[:, : (rows + 1) // 2, ::2].contiguous().numpy(), narrow
    yield flow.tensor(x[:, :1]).expand(2, rows, 3, columns).contiguous().numpy(), np.broadcast_to(x[:, :1], x.shape)


@case
def reshape(rng: np.random.Generator, rows: int, columns: int) -> Results:
    x, slope = draw(rng, rows, 2, columns), draw(rng, 2 * rows, columns)
    tensor = leaf(x)
    y = tensor.reshape(2 * rows, columns)
    (dx,) = backward(y, slope, tensor)
    yield y.numpy(), x.reshape(2 * rows, columns)
    yield dx, slope.reshape(x.shape)


def _trajectory(
    rng: np.random.Generator, shape: tuple[int, ...], decay: float, lamb: bool, correct: bool = True, steps: int = 5
) -> tuple[Array, Array]:
    """A parameter after some optimizer steps, and after the same steps by the published formulas in float64."""
    w = draw(rng, *shape)
    parameter = flow.nn.Parameter(flow.tensor(w))
    kind = flow.optim.LAMB if lamb else flow.optim.AdamW
    options = {} if lamb else {"do_bias_correction": correct}
    optimizer = kind([parameter], lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=decay, **options)
    wide = w.astype(np.float64)
    m = v = np.zeros(shape)
    for step in range(1, steps + 1):
        g = draw(rng, *shape)
        parameter.grad = flow.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g.astype(np.float64) ** 2
        c1, c2 = (1 - 0.9**step, 1 - 0.99**step) if correct else (1, 1)
        update = m / c1 / (np.sqrt(v / c2) + 1e-6) + decay * wide
        norms = np.linalg.norm(wide), np.linalg.norm(update)
        ratio = norms[0] / norms[1] if lamb and decay and min(norms) > 0 else 1
        wide = wide - 0.1 * ratio * update
    return parameter.numpy(), wide


@case
def adam_update(rng: np.random.Generator, rows: int, columns: int) -> Results:
    yield _trajectory(rng, (rows, columns), 0.1, lamb=False)
    yield _trajectory(rng, (rows, columns), 0.0, lamb=False, correct=False)


@case
def lamb_update(rng: np.random.Generator, rows: int, columns: int) -> Results:
    yield _trajectory(rng, (rows, columns), 0.1, lamb=True)
    yield _trajectory(rng, (rows, columns), 0.0, lamb=True)
