"""Every kernel against numpy over many sizes; and that the comparison itself finds errors."""

import numpy as np
import pytest

import kernels
from kernels import __main__ as command
from kernels import check

SHAPES = [(1, 1), (1, 13), (5, 1), (2, 2), (7, 37), (31, 64), (130, 257), (17, 1031)]
TOLERANCE = 1e-5
# Stock OneFlow has no CPU kernel for the fused ops, and its LAMB follows another formula. All other cases also run
# without this project's kernels.
NOT_STOCK = {name for name in check.CASES if name.startswith("fused_")} | {"lamb_update"}
ours = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")
NAMES = [pytest.param(name, marks=ours) if name in NOT_STOCK else name for name in check.CASES]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_with_numpy(name, shape):
    assert check.largest_error(name, *shape, seed=sum(shape)) < TOLERANCE


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_with_numpy_at_random_sizes(name, seed):
    rows, columns = np.random.default_rng(seed).integers(1, 90, 2)
    assert check.largest_error(name, int(rows), int(columns), seed) < TOLERANCE


@pytest.fixture
def add_case(monkeypatch):
    """A function that adds a case of one pair (actual, expected)."""

    def add(actual, expected):
        monkeypatch.setitem(check.CASES, "added", lambda rng, rows, columns: iter([(actual, expected)]))

    return add


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([4.0, 8.0], [4.0, 8.0], 0.0),
        ([4.0, 8.8], [4.0, 8.0], 0.1),  # relative to the largest value
        ([0.1, 0.3], [0.1, 0.1], 0.2),  # absolute below 1
        ([], [], 0.0),
    ],
)
def test_the_error_is_relative_to_the_largest_value_or_1(add_case, actual, expected, error):
    add_case(np.array(actual, np.float32), np.array(expected))
    assert check.largest_error("added", 7, 5) == pytest.approx(error, abs=1e-6)


def test_a_nan_is_an_error_and_so_is_a_wrong_shape(add_case):
    add_case(np.array([1, np.nan], np.float32), np.ones(2))
    assert np.isnan(check.largest_error("added", 7, 5))
    add_case(np.ones((2, 1), np.float32), np.ones(2))
    with pytest.raises(AssertionError, match="added: shape"):
        check.largest_error("added", 7, 5)


def test_gradients_are_those_of_the_weighted_sum():
    x, y = check.leaf(np.full((2, 3), 2, np.float32)), check.leaf(np.full((2, 3), 5, np.float32))
    slope = np.arange(6, dtype=np.float32).reshape(2, 3)
    dx, dy = check.backward(x * y, slope, x, y)
    np.testing.assert_array_equal(dx, 5 * slope)
    np.testing.assert_array_equal(dy, 2 * slope)


def test_the_speed_of_a_product_is_its_operations_over_its_time(monkeypatch):
    times = iter([0.0, 0.5, 1.0, 1.25, 2.0, 3.0])  # begin and end of three products
    monkeypatch.setattr(check.time, "perf_counter", lambda: next(times))
    assert check.gemm_speed(7, 5, 3, repeats=3) == 2 * 7 * 5 * 3 / 0.25


@ours
def test_the_command_lists_every_case_and_fails_on_a_wrong_one(monkeypatch, capsys, add_case):
    monkeypatch.setattr(command, "SHAPES", [(7, 37)])
    monkeypatch.setattr(check, "gemm_speed", lambda: 1e9)
    monkeypatch.setattr(command.sys, "argv", ["kernels"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "matrix products, float32: 1 GFLOP/s" in printed and "WRONG" not in printed
    assert all(f"  {name} " in printed for name in check.CASES)
    add_case(np.ones(2, np.float32), np.zeros(2))
    assert command.main() == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "WRONG" in line] == ["added"]


def test_the_command_prints_its_usage_for_unknown_arguments(monkeypatch, capsys):
    monkeypatch.setattr(command.sys, "argv", ["kernels", "bulid"])
    assert command.main() == 2
    assert "python -m kernels [build]" in capsys.readouterr().err
