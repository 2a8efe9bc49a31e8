"""Reproducible dropout masks, on this project's CPU kernels and on stock ones.

Masks of compiled jobs, and the kernels' formula, are tested in tests/kernels/test_dropout_masks.py.
"""

import dataclasses

import numpy as np
import oneflow as flow
import pytest

import kernels
from modeling import BertModel, dropout
from modeling.dropout import Site
from tests.programs import run_python

R, H, RATE = 7, 37, 0.3
# Prints one line per mask.
MASKS = """
import modeling
import oneflow as flow
from modeling import dropout

def show():
    print("".join(str(int(kept)) for kept in (dropout.dropout(flow.ones(19, 37), 0.3).numpy() > 0).ravel()))

for seed, step, rank in [(3, 4, 0), (3, 5, 0), (8, 4, 0), (3, 4, 1)]:
    dropout.begin_step(seed, step, rank)
    for forward in range(2):
        dropout.restart()
        show()
        state = dropout.get_state()
        show()
    for _ in range(2):
        dropout.set_state(state)
        show()
"""


@pytest.fixture(scope="module", params=[{}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}], ids=["own kernels", "stock kernels"])
def masks(request):
    """[begun step, mask, element] of two runs of the same program."""

    def run():
        return np.array([list(line) for line in run_python(MASKS, **request.param).split()], int)

    return run().reshape(4, 6, -1), run().reshape(4, 6, -1)


def test_two_runs_draw_the_same_masks(masks):
    first, second = masks
    np.testing.assert_array_equal(first, second)


def test_seeds_steps_ranks_passes_and_calls_have_masks_of_their_own(masks):
    drawn = masks[0][:, :4].reshape(16, -1)  # without those after set_state
    assert np.abs(drawn.mean(-1) - (1 - RATE)).max() < 0.1
    by_chance = RATE**2 + (1 - RATE) ** 2
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs((one == other).mean() - by_chance) < 0.1


def test_the_same_masks_follow_the_same_state(masks):
    np.testing.assert_array_equal(masks[0][:, 4], masks[0][:, 5])


def test_elements_are_dropped_or_scaled_and_so_is_the_gradient():
    x = flow.tensor(np.random.default_rng(0).uniform(1, 2, (R, H)).astype(np.float32), requires_grad=True)
    y = dropout.dropout(x, RATE)
    y.sum().backward()
    kept = y.numpy() > 0
    assert 0.5 < kept.mean() < 0.9
    np.testing.assert_allclose(y.numpy(), np.where(kept, x.numpy() / (1 - RATE), 0), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), kept / (1 - RATE), rtol=1e-6)


def test_rate_0_returns_the_input():
    x = flow.ones(R, H)
    assert dropout.dropout(x, 0.0) is x


def test_record_lists_the_calls_and_feed_applies_masks_in_their_order():
    x = flow.ones(R, H)
    with dropout.record() as sites:
        assert dropout.dropout(x, RATE) is x
        assert dropout.dropout(flow.ones(5, 3), 0.5).shape == (5, 3)
        dropout.dropout(x, 0.0)  # not a call: nothing would be dropped
    assert sites == [Site((R, H), RATE), Site((5, 3), 0.5)]
    dropout.begin_step(1, 2, 0)
    drawn = dropout.draw(sites, 0)
    with dropout.feed([flow.tensor(mask) for mask in drawn]):
        np.testing.assert_array_equal(dropout.dropout(x, RATE).numpy(), drawn[0])
        np.testing.assert_array_equal(dropout.dropout(flow.ones(5, 3), 0.5).numpy(), drawn[1])
    assert not np.array_equal(dropout.dropout(x, RATE).numpy(), x.numpy())  # the blocks have ended


def test_a_model_on_stock_kernels_has_one_site_per_dropout_call(tiny_config, monkeypatch):
    monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.1)
    with dropout.record() as sites:
        BertModel(config).train()(flow.zeros(2, 5, dtype=flow.int32))
    assert sites == [Site((2 * 5, config.hidden_size), 0.1)] * (1 + 2 * config.num_hidden_layers)


def test_drawn_masks_follow_from_seed_step_rank_and_pass():
    sites = [Site((R, H), RATE), Site((R, H), RATE)]

    def draw(seed, step, rank, forward):
        dropout.begin_step(seed, step, rank)
        return np.stack(dropout.draw(sites, forward))

    first = draw(1, 2, 0, 0)
    np.testing.assert_array_equal(first, draw(1, 2, 0, 0))
    assert set(np.unique(first)) == {0, np.float32(1 / (1 - RATE))}
    assert abs(first.mean() - 1) < 0.1
    others = [draw(9, 2, 0, 0), draw(1, 3, 0, 0), draw(1, 2, 1, 0), draw(1, 2, 0, 1)]
    assert not any(np.array_equal(first, other) for other in others)
    assert not np.array_equal(first[0], first[1])


def test_masks_for_compiled_jobs_on_cuda_depend_on_rank_step_pass_and_site():
    def masks(seed, step, rank, forward):
        dropout.begin_step(seed, step, rank)
        return [mask.numpy() for mask in dropout.draw_on_cuda([Site((R, H), RATE)] * 2, forward, "cpu")]

    positions = [(3, 4, 0, 0), (8, 4, 0, 0), (3, 5, 0, 0), (3, 4, 1, 0), (3, 4, 0, 1)]
    drawn = [mask for position in positions for mask in masks(*position)]
    for mask, other in zip(drawn, [mask for position in positions for mask in masks(*position)], strict=True):
        np.testing.assert_array_equal(mask, other)
        assert set(np.unique(mask)) == {0, np.float32(1 / (1 - RATE))} and abs((mask > 0).mean() - (1 - RATE)) < 0.1
    by_chance = RATE**2 + (1 - RATE) ** 2
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs((one == other).mean() - by_chance) < 0.12


def test_on_cuda_dropout_leaves_the_fused_ops_while_masks_are_recorded_or_fed():
    class OnCuda:
        is_cuda = True

    assert not dropout.takes_masks(OnCuda())
    with dropout.record():
        assert dropout.takes_masks(OnCuda()) and not dropout.takes_masks(flow.ones(1))
    with dropout.feed([]):
        assert dropout.takes_masks(OnCuda()) and not dropout.takes_masks(flow.ones(1))
    assert not dropout.takes_masks(OnCuda())
