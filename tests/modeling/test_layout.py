"""Placement of tensors, as far as one process shows it; tests/training compares several ranks."""

import numpy as np
import oneflow as flow
import pytest

from modeling import layout

ARRAY = np.arange(35, dtype=np.float32).reshape(7, 5)


@pytest.mark.parametrize(("function", "sbp"), [(layout.replicate, "broadcast"), (layout.split_rows, "split(dim=0)")])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_tensors_become_global(function, sbp, device):
    tensor = function(flow.tensor(ARRAY), device)
    assert tensor.is_global and tensor.placement == flow.placement.all("cpu")
    assert str(tensor.sbp[0]).endswith(sbp)
    np.testing.assert_array_equal(layout.to_numpy(tensor), ARRAY)


def test_a_placed_module_has_global_parameters_and_the_same_output():
    module = flow.nn.Linear(5, 3)
    expected = module(flow.tensor(ARRAY)).numpy()
    placed = layout.place_parameters(module, "cpu")
    assert placed is module and all(parameter.is_global for parameter in module.parameters())
    output = module(layout.split_rows(flow.tensor(ARRAY), "cpu"))
    np.testing.assert_allclose(layout.to_numpy(output), expected, rtol=1e-6)


def test_constants_are_placed_like_the_tensor_they_are_combined_with():
    local = layout.full_like(flow.tensor(ARRAY), (3, 1), 0.25)
    assert not local.is_global and local.dtype == flow.float32
    whole = layout.full_like(layout.split_rows(flow.tensor(ARRAY), "cpu"), (5,), 0.25)
    assert whole.is_global and whole.sbp == (flow.sbp.broadcast,)
    for constant, shape in ((local, (3, 1)), (whole, (5,))):
        np.testing.assert_array_equal(layout.to_numpy(constant), np.full(shape, 0.25, np.float32))
    assert layout.full_like(flow.tensor(ARRAY).to(flow.int32), (2,), 3).dtype == flow.int32


@pytest.mark.parametrize("place", [lambda tensor: tensor, lambda tensor: layout.replicate(tensor, "cpu")])
def test_to_numpy_copies(place):
    tensor = place(flow.tensor(ARRAY))
    copy = layout.to_numpy(tensor)
    tensor.zero_()
    np.testing.assert_array_equal(copy, ARRAY)


def test_to_numpy_takes_parameters():
    parameter = flow.nn.Parameter(flow.tensor(ARRAY))
    np.testing.assert_array_equal(layout.to_numpy(parameter), ARRAY)


def test_positions_are_placed_like_the_tensor_they_are_combined_with():
    for tensor in (flow.tensor(ARRAY), layout.split_rows(flow.tensor(ARRAY), "cpu")):
        positions = layout.positions_like(tensor, 4)
        assert positions.is_global == tensor.is_global
        np.testing.assert_array_equal(layout.to_numpy(positions), np.arange(4))


def test_values_are_placed_like_another_tensor():
    values = flow.tensor(ARRAY + 1)
    assert layout.place_like(values, flow.tensor(ARRAY)) is values
    for tensor in (layout.replicate(flow.tensor(ARRAY), "cpu"), layout.split_rows(flow.tensor(ARRAY), "cpu")):
        placed = layout.place_like(values, tensor)
        assert (placed.placement, placed.sbp) == (tensor.placement, tensor.sbp)
        np.testing.assert_array_equal(layout.to_numpy(placed), ARRAY + 1)


def test_without_tensor_parallelism_values_are_whole():
    for tensor in (flow.tensor(ARRAY), layout.split_rows(flow.tensor(ARRAY), "cpu")):
        assert layout.whole(tensor) is tensor
