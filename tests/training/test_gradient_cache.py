"""An update in micro-batches has the loss and the gradients of the whole update, with dropout too."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from configs.model import BertConfig
from configs.pooling import Pooling
from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from modeling import dropout
from modeling.embedding import BertForEmbedding
from modeling.embedding_losses import CoSent, Matryoshka, MultipleNegatives
from training.distributed import World
from training.gradient_cache import comparing_rows
from training.optimizer import build_optimizer
from training.step import StepOptions, build_train_step, to_tensors

ROWS, TEXTS, LENGTH, STEPS = 12, 3, 7, 3
CONFIG = BertConfig(
    vocab_size=37,
    hidden_size=20,
    num_hidden_layers=2,
    num_attention_heads=5,
    intermediate_size=28,
    max_position_embeddings=16,
)
LOSSES = {
    "negatives": Matryoshka(MultipleNegatives(symmetric=True), (20, 7)),
    "cosent": CoSent(),
}


def make_batch():
    random = np.random.default_rng(0)
    mask = np.ones((ROWS, TEXTS, LENGTH), np.int32)
    mask[:, :, 5:] = random.random((ROWS, TEXTS, 1)) > 0.5
    weights = np.ones(ROWS, np.float32)
    weights[-2:] = 0  # rows that fill up the batch
    return {
        "input_ids": random.integers(1, 37, mask.shape).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": np.zeros_like(mask),
        "scores": random.random((ROWS, 1)).astype(np.float32),
        "example_weights": weights,
    }


def train(mode, loss, micro_rows, rate=0.0):
    config = CONFIG.__class__(**{**CONFIG.__dict__, "hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate})
    model = BertForEmbedding(config, 1, Pooling("mean", normalize=True), LOSSES[loss])
    options = StepOptions(World(JobShape(), "cpu"), seed=3, micro_rows=micro_rows, max_grad_norm=0)
    optimizer = build_optimizer(model, OptimizerFlags(clip="none"))
    step = build_train_step(mode, model, optimizer, np.full(STEPS, 1e-3), options)
    step = comparing_rows(step, mode, model, options)
    losses = [step(make_batch())()["total_loss"] for _ in range(STEPS)]
    return losses, model.to_arrays()


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_are_the_whole_update(mode, loss):
    losses, arrays = train(mode, loss, None)
    for micro_rows in (4, 3):
        others, other = train(mode, loss, micro_rows)
        np.testing.assert_allclose(others, losses, rtol=1e-5)
        for name, array in arrays.items():
            np.testing.assert_allclose(other[name], array, atol=1e-5, err_msg=name)


def test_gradients_are_those_of_the_whole_update():
    """With dropout: the masks of the micro-batches are drawn again for one pass over all rows."""
    config = BertConfig(**{**CONFIG.__dict__, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2})
    batch, options = make_batch(), StepOptions(World(JobShape(), "cpu"), seed=3, micro_rows=4, max_grad_norm=0)
    found = {}

    class Gradients:
        """An optimizer that keeps the gradients and changes nothing."""

        def step(self):
            found.update({name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None})

        def zero_grad(self, set_to_none):
            for parameter in model.parameters():
                parameter.grad = None

    model = BertForEmbedding(config, 1, Pooling("mean"), MultipleNegatives())
    step = build_train_step("eager", model, build_optimizer(model, OptimizerFlags(clip="none")), np.ones(1), options)
    step.optimizer, step.scheduler = Gradients(), type("", (), {"step": lambda self: None})()
    loss = comparing_rows(step, "eager", model, options)(batch)()["total_loss"]

    dropout.begin_step(3, 0, 0)
    parts = []
    for first in range(0, ROWS, 4):
        part = {name: batch[name][first : first + 4] for name in ("input_ids", "input_mask", "segment_ids")}
        parts.append(model(**to_tensors(part, "cpu"))["embeddings"])
    tensors = to_tensors(batch, "cpu")
    items = model.losses(flow.cat(parts, dim=0), TEXTS, None, tensors["example_weights"])
    whole = (items * tensors["example_weights"]).sum() / 10
    whole.backward()
    assert loss == pytest.approx(float(whole.numpy()), rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected = parameter.grad.numpy()
            np.testing.assert_allclose(found[name], expected, atol=1e-6 * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.skipif(not kernels.is_loaded(), reason="stock kernels draw masks in another way in each mode")
def test_both_modes_draw_the_same_masks():
    eager, graph = (train(mode, "negatives", 4, rate=0.2) for mode in ("eager", "graph"))
    np.testing.assert_allclose(graph[0], eager[0], rtol=1e-4)


def test_the_state_is_that_of_the_step():
    model = BertForEmbedding(CONFIG, 1, Pooling(), MultipleNegatives())
    options = StepOptions(World(JobShape(), "cpu"), seed=3, micro_rows=4)
    step = build_train_step("eager", model, build_optimizer(model, OptimizerFlags()), np.full(5, 1e-3), options)
    cached = comparing_rows(step, "eager", model, options)
    cached(make_batch())
    assert cached.state().keys() == step.state().keys()
    cached.load_state(cached.state(), 4)
    assert cached.updates == step.step == 4
