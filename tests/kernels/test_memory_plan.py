"""Compiled jobs whose tensors share memory: less of it, and the same numbers."""

from pathlib import Path

import numpy as np
import oneflow as flow
import pytest
from oneflow import nn

import kernels
from kernels import plugin

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")

LAYERS, ROWS, WIDTH = 7, 2047, 257
TENSOR = ROWS * WIDTH * 4 / 1e6  # megabytes of an activation, of which an unshared job holds 7 or more for a layer


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])

    def forward(self, x):
        for layer in self.layers:
            x = x + nn.functional.gelu(layer(x))
        return (x * x).mean()


class Train(nn.Graph):
    def __init__(self, model, micro_batches):
        super().__init__()
        self.model = model
        parameters = {"params": list(model.parameters()), "clip_grad_max_norm": 0.5, "clip_grad_norm_type": 2.0}
        self.add_optimizer(flow.optim.AdamW([parameters], lr=1e-2))
        if micro_batches > 1:
            self.config.set_gradient_accumulation_steps(micro_batches)

    def build(self, x):
        loss = self.model(x)
        loss.backward()
        return loss


class Evaluate(nn.Graph):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def build(self, x):
        return self.model(x)


def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def run(shared, micro_batches=1):
    """Losses, losses of an evaluation job beside it, and the memory that the training job takes."""
    kernels.share_memory_in_graphs(shared)
    try:
        flow.manual_seed(5)
        model, rng = Tower(), np.random.default_rng(0)
        train, evaluate = Train(model, micro_batches), Evaluate(model)
        batches = [flow.tensor(rng.standard_normal((ROWS * micro_batches, WIDTH), np.float32)) for _ in range(3)]
        before = resident_megabytes()
        losses = [train(batches[0]).numpy()]
        memory = resident_megabytes() - before
        held_out = []
        for batch in [*batches[1:], *batches]:
            held_out.append(evaluate(batches[2][:ROWS]).numpy())
            losses.append(train(batch).numpy())
        return np.array(losses), np.array(held_out), memory
    finally:
        kernels.share_memory_in_graphs(False)


def test_a_training_job_takes_less_memory_and_has_the_same_losses():
    expected, expected_held_out, unshared = run(False)
    losses, held_out, memory = run(True)
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(held_out, expected_held_out)
    assert losses[-1] < losses[0]
    assert memory < 5 * LAYERS * TENSOR < unshared


def test_losses_are_the_same_with_accumulation():
    (losses, held_out, _), (expected, expected_held_out, _) = run(True, 3), run(False, 3)
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(held_out, expected_held_out)


class Branches(nn.Module):
    """Many layers read the same tensor: the gradients of their weights are known early, that of the tensor late."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(7, 7)
        self.branches = nn.ModuleList([nn.Linear(7, 7) for _ in range(16)])

    def forward(self, x):
        x = self.first(x)
        return sum(flow.tanh(branch(x)) for branch in self.branches).square().mean()


class TrainWithoutClipping(nn.Graph):
    """Each weight is updated as soon as its own gradient is known."""

    def __init__(self, model, micro_batches):
        super().__init__()
        self.model = model
        self.add_optimizer(flow.optim.SGD(model.parameters(), lr=0.1))
        self.config.set_gradient_accumulation_steps(micro_batches)

    def build(self, x):
        loss = self.model(x)
        loss.backward()
        return loss


@pytest.mark.parametrize("micro_batches", [2, 3, 4])
def test_an_update_waits_for_the_last_reader_of_the_weight(micro_batches):
    # The reference is eager: without sharing, OneFlow does not guarantee this order.
    rng = np.random.default_rng(0)
    batches = [flow.tensor(rng.standard_normal((5 * micro_batches, 7), np.float32)) for _ in range(3)]
    flow.manual_seed(5)
    eager, model = Branches(), Branches()
    model.load_state_dict(eager.state_dict())
    optimizer = flow.optim.SGD(eager.parameters(), lr=0.1)
    kernels.share_memory_in_graphs(True)
    train = TrainWithoutClipping(model, micro_batches)
    for batch in batches:
        train(batch).numpy()
        eager(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, parameter), expected in zip(model.named_parameters(), eager.parameters(), strict=True):
        np.testing.assert_allclose(parameter.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_planner_is_off_without_the_preloaded_library(monkeypatch):
    monkeypatch.setattr(plugin.settings, "preloaded", None)
    kernels.share_memory_in_graphs(True)
