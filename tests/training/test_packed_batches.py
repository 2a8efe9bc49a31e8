"""Packed batches give the outputs, losses and updates of padded ones."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from configs.training import OptimizerFlags
from data.reading.loader import Records, in_packed_rows, training_batches, without_padding
from data.reading.packing import PACKED, pack
from launch.job_shape import JobShape
from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from tests.data.reading.test_packing import Source
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
def test_updates_with_packed_rows_are_those_of_padded_batches(mode, tiny_config):
    records = in_packed_rows(without_padding(Records(Source(47))), tokens=37, seed=3)
    packed = list(training_batches(records, rows=2, seed=3, end=2 * 7))
    padded = [{name: array for name, array in batch.items() if name not in PACKED} for batch in packed]
    for batch in padded:  # an empty place becomes a record of weight 0
        batch["input_mask"] = np.maximum(batch["input_mask"], 1 - batch["example_weights"][:, None].astype(np.int32))
    assert not all(batch["example_weights"].all() for batch in packed)
    losses, norms = [], []
    for batches, rows in ((padded, len(padded[0]["input_ids"]) // 2), (packed, 4)):
        model = place_model(mode, BertForPreTraining(tiny_config, seed=1), WORLD)
        options = StepOptions(world=WORLD, seed=3, micro_rows=rows)
        step = build_train_step(mode, model, build_optimizer(model, OptimizerFlags()), np.full(7, 1e-3), options)
        metrics = [step(batch)() for batch in batches]
        losses.append([row["total_loss"] for row in metrics])
        norms.append([row["grad_norm"] for row in metrics])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)


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
    with_empty_place = {name: np.concatenate([array, array[:1]]) for name, array in batch.items()}
    for name in ("input_mask", "masked_lm_weights", "example_weights"):
        with_empty_place[name][6] = 0
    gradients = []
    for each in (batch, pack(batch, 6, size_of(batch, 6)), pack(with_empty_place, 7, size_of(batch, 6))):
        model = BertForPreTraining(tiny_config, seed=1)
        model(**{name: flow.tensor(array) for name, array in each.items()})["total_loss"].backward()
        gradients.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        for found in gradients[1:]:
            np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)
