"""Packed batches give the outputs, losses and updates of padded ones."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from configs.training import OptimizerFlags
from data.reading.packing import pack
from launch.job_shape import JobShape
from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from training.distributed import World
from training.optimizer import build_optimizer
from training.step import StepOptions, build_eval_step, build_train_step, place_model

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")

WORLD = World(JobShape(), "cpu")
INPUTS = ("input_ids", "input_mask", "segment_ids")


def size_of(batch, rows):
    return int(batch["input_mask"].reshape(-1, rows * batch["input_mask"].shape[1]).sum(axis=1).max()) + 5


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_updates_have_the_losses_of_padded_batches(mode, accumulation, tiny_config, pretraining_batch):
    padded = [pretraining_batch(6, seed % 2) for seed in range(9)]
    rows = 6 // accumulation
    size = max(size_of(batch, rows) for batch in padded)
    losses = []
    for batches in (padded, [pack(batch, rows, size) for batch in padded]):
        model = place_model(mode, BertForPreTraining(tiny_config, seed=1), WORLD)
        options = StepOptions(world=WORLD, seed=3, micro_rows=rows)
        step = build_train_step(mode, model, build_optimizer(model, OptimizerFlags()), np.full(9, 1e-3), options)
        losses.append([step(batch)()["total_loss"] for batch in batches])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    ("kind", "labels"),
    [(BertForSequenceClassification, (6, 1)), (BertForTokenClassification, (6, 11))],
    ids=["classification", "tagging"],
)
def test_heads(mode, kind, labels, tiny_config, pretraining_batch):
    batch = {name: pretraining_batch(6)[name] for name in INPUTS}
    batch["label_ids"] = np.random.default_rng(0).integers(0, 2, labels).astype(np.int32)
    if labels[1] > 1:
        batch["label_weights"] = batch["input_mask"].astype(np.float32)
    model = place_model(mode, kind(tiny_config, seed=1), WORLD)
    step = build_eval_step(mode, model, WORLD, ("logits",))
    expected, found = step(batch), step(pack(batch, 6, size_of(batch, 6)))
    np.testing.assert_allclose(found["total_loss"], expected["total_loss"], rtol=1e-6)
    tokens = batch["input_mask"] == 1 if labels[1] > 1 else slice(None)
    np.testing.assert_allclose(found["logits"][tokens], expected["logits"][tokens], atol=1e-6)


def test_answers_are_never_at_padding(tiny_config, pretraining_batch):
    batch = {name: pretraining_batch(6)[name] for name in INPUTS}
    model = place_model("eager", BertForQuestionAnswering(tiny_config, seed=1), WORLD)
    step = build_eval_step("eager", model, WORLD, ("start_logits", "end_logits"))
    expected, found = step(batch), step(pack(batch, 6, size_of(batch, 6)))
    tokens = batch["input_mask"] == 1
    for name in ("start_logits", "end_logits"):
        np.testing.assert_allclose(found[name][tokens], expected[name][tokens], atol=1e-6)
        assert (found[name][~tokens] < -9000).all()


def test_gradients_equal_those_of_padded_batches(tiny_config, pretraining_batch):
    batch = pretraining_batch(6)
    gradients = []
    for each in (batch, pack(batch, 6, size_of(batch, 6))):
        model = BertForPreTraining(tiny_config, seed=1)
        model(**{name: flow.tensor(array) for name, array in each.items()})["total_loss"].backward()
        gradients.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], expected, atol=1e-6, err_msg=name)
