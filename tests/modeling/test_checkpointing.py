"""A recomputed layer has the dropout masks and the precision of its first computation."""

import oneflow as flow
import pytest

from modeling.checkpointing import checkpointed
from tests.programs import run_python

REPEATED = """
import kernels

kernels.configure()
kernels.load()
import numpy as np
import oneflow as flow

from modeling import dropout
from modeling.checkpointing import checkpointed


def layer(x):
    return dropout.dropout(dropout.dropout(x, 0.3) * 2.0, 0.3)


for step in (4, 5):
    dropout.begin_step(3, step, 1)
    for forward in range(2):
        x = flow.ones(9, 13, requires_grad=True)
        dropout.restart()
        first = checkpointed(layer, x)
        second = checkpointed(layer, first)
        second.sum().backward()
        print("".join(str(int(value)) for value in (first.numpy() > 0).ravel()))
        # An element is (2 / 0.49)² if no dropout call dropped it and else 0, and its gradient is the same.
        np.testing.assert_allclose(x.grad.numpy(), second.numpy(), rtol=1e-5)
        assert 0.1 < (second.numpy() > 0).mean() < 0.4
"""


@pytest.mark.parametrize("environment", [{}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}], ids=["own kernels", "stock kernels"])
def test_a_recomputed_layer_draws_the_same_masks(environment):
    masks = run_python(REPEATED, **environment).split()
    assert len(set(masks)) == 4  # each step and each forward pass has a mask of its own


@pytest.mark.parametrize("half", [False, True])
def test_a_recomputed_layer_runs_in_the_same_precision(half):
    found = []

    def layer(x):
        found.append((flow.is_autocast_enabled(), flow.get_autocast_gpu_dtype()))
        return x * x

    x = flow.ones(3, requires_grad=True)
    with flow.autocast("cuda", dtype=flow.float16, enabled=half):
        loss = checkpointed(layer, x).sum()
    loss.backward()
    assert found == [(half, flow.float16)] * 2
    assert not flow.is_autocast_enabled()
