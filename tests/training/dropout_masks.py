"""Writes the dropout masks of training steps in both modes; several_runs.py runs it in each rank.

The gradient shows the mask: a row of a batch selects its own row of each layer's weights, and the loss is the sum of
these after dropout, so an update by plain SGD moves exactly the weights that dropout kept. Gradients are summed over
ranks and micro-batches, and each of these has its own rows.
"""

import numpy as np
import oneflow as flow
from oneflow import nn

from configs.training import DeviceFlags
from modeling import dropout, ops
from training.distributed import join
from training.step import StepOptions, build_train_step, place_model

RATE, LAYERS, STEPS, MICRO_BATCHES, ROWS, COLUMNS = 0.3, 2, 3, 2, 7, 137
RESUMED = 1  # the step that a second run begins with


class Layers(nn.Module):
    """Weights [N, H] of each layer, for the N rows of a whole update."""

    def __init__(self, rows):
        super().__init__()
        self.first, self.second = (nn.Parameter(flow.zeros(rows, COLUMNS)) for _ in range(LAYERS))

    def forward(self, input_ids, example_weights, loss_reduction):
        dropout.restart()
        kept = [ops.dropout(flow.matmul(input_ids, layer), RATE) for layer in (self.first, self.second)]  # [B, H]
        return {"total_loss": (sum(each.sum(dim=1) for each in kept) * example_weights).sum()}


def write(directory):
    """directory/MODE.npy and MODE-resumed.npy: bool [steps, layers, ranks, micro-batches, rows, H]."""
    world = join(DeviceFlags(with_cuda=False))
    whole = (world.shape.data_parallel_size, MICRO_BATCHES, ROWS)
    own_rows = np.arange(np.prod(whole)).reshape(whole)[world.shape.data_parallel_rank].ravel()
    batch = {
        "input_ids": np.eye(np.prod(whole), dtype=np.float32)[own_rows],  # [A*B, N]
        "example_weights": np.ones(len(own_rows), np.float32),
    }
    options = StepOptions(world=world, seed=5, micro_rows=ROWS, max_grad_norm=0.0)
    for mode in ("eager", "graph"):
        for name, first in ((mode, 0), (f"{mode}-resumed", RESUMED)):
            model = place_model(mode, Layers(len(own_rows) * world.shape.data_parallel_size), world)
            optimizer = flow.optim.SGD([{"params": list(model.parameters()), "lr": 1.0}])
            step = build_train_step(mode, model, optimizer, np.ones(STEPS, np.float32), options)
            if first:
                step.load_state({}, first)
            weights = [np.zeros((LAYERS, *whole, COLUMNS))]
            for _ in range(first, STEPS):
                step(batch)()
                weights.append(
                    np.stack([np.array(layer.numpy()) for layer in model.parameters()]).reshape(weights[0].shape)
                )
            if world.shape.is_first:
                np.save(directory / f"{name}.npy", np.diff(weights, axis=0) < -1e-6)
