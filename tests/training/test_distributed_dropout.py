"""Dropout masks of two ranks in both modes: they are independent, and a resumed run repeats them."""

import itertools

import numpy as np
import pytest

RATE, RESUMED = 0.3, 1  # dropout_masks.py's


@pytest.fixture(scope="module", params=["own kernels", "stock kernels"])
def masks(request, two_ranks, tmp_path_factory):
    """{"eager", "graph", with "-resumed" too: bool [steps, layers, ranks, micro-batches, rows, H]}."""
    root = tmp_path_factory.mktemp("masks")
    environment = {} if request.param == "own kernels" else {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    job = two_ranks(root, [["masks", [str(root)]]], **environment)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output[-3000:]
    return {path.stem: np.load(path) for path in root.glob("*.npy")}


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_masks_of_steps_layers_ranks_and_micro_batches_are_independent(masks, mode):
    assert masks[mode].shape == (3, 2, 2, 2, 7, 137)
    each = masks[mode].reshape(24, -1)
    size = each.shape[1]
    assert np.abs(each.mean(axis=1) - (1 - RATE)).max() < 4 * np.sqrt(RATE * (1 - RATE) / size)
    by_chance = RATE**2 + (1 - RATE) ** 2
    agreement = np.array([(one == other).mean() for one, other in itertools.combinations(each, 2)])
    assert np.abs(agreement - by_chance).max() < 5 * np.sqrt(by_chance * (1 - by_chance) / size)
    rows = masks[mode].reshape(-1, 137)
    assert len(np.unique(rows, axis=0)) == len(rows)  # nor does a row of one come again elsewhere


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_repeats_every_mask(masks, mode):
    np.testing.assert_array_equal(masks[f"{mode}-resumed"], masks[mode][RESUMED:])
