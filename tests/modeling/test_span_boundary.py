"""The span-boundary objective against numpy."""

import math

import numpy as np
import oneflow as flow
import pytest

from data.reading.span_boundaries import boundaries
from modeling import BertForPreTraining
from modeling.span_boundary import BertForSpanPreTraining


@pytest.fixture
def batch(pretraining_batch):
    arrays = pretraining_batch(7)
    positions, weights = arrays["masked_lm_positions"], arrays["masked_lm_weights"]
    around, offsets = boundaries(positions, weights, arrays["input_ids"].shape[1])
    return {**arrays, "span_boundaries": around, "span_offsets": offsets}


def dense_gelu_norm(x, weights, prefix):
    x = x @ weights[f"{prefix}.dense.weight"].T + weights[f"{prefix}.dense.bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    centered = x - x.mean(-1, keepdims=True)
    x = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
    return x * weights[f"{prefix}.LayerNorm.weight"] + weights[f"{prefix}.LayerNorm.bias"]


def test_the_loss_equals_numpy(tiny_config, batch):
    model = BertForSpanPreTraining(tiny_config, seed=1)
    rng = np.random.default_rng(0)
    for parameter in model.span_boundary.parameters():  # also biases
        parameter.data.copy_(flow.tensor(rng.normal(0, 0.3, tuple(parameter.shape)).astype(np.float32)))
    outputs = model.eval()(**{name: flow.tensor(array) for name, array in batch.items()})
    weights = {name: array.astype(np.float64) for name, array in model.to_arrays().items()}
    hidden = outputs["sequence_output"].numpy().astype(np.float64)
    total, right = 0.0, 0.0
    for row, place in zip(*np.nonzero(batch["masked_lm_weights"]), strict=True):
        before, after = batch["span_boundaries"][row, place], batch["span_boundaries"][row, place + 3]
        offset = weights["span_boundary.offset_embeddings.weight"][batch["span_offsets"][row, place]]
        x = np.concatenate([hidden[row, before], hidden[row, after], offset])
        for layer in ("span_boundary.lower", "span_boundary.upper"):
            x = dense_gelu_norm(x, weights, layer)
        scores = weights["bert.embeddings.word_embeddings.weight"] @ x + weights["span_boundary.bias"]
        label = batch["masked_lm_ids"][row, place]
        total += np.log(np.exp(scores - scores[label]).sum())
        right += scores.argmax() == label
    count = batch["masked_lm_weights"].sum()
    assert outputs["sbo_loss"].item() == pytest.approx(total / count, rel=1e-6)
    assert outputs["sbo_accuracy"].item() == pytest.approx(right / count)
    sums = sum(outputs[name].item() for name in ("mlm_loss", "nsp_loss", "sbo_loss"))
    assert outputs["total_loss"].item() == pytest.approx(sums, rel=1e-6)


def test_long_spans_and_gradients(tiny_config, batch):
    model = BertForSpanPreTraining(tiny_config, seed=1).train()
    batch["span_offsets"] = batch["span_offsets"] + 37  # beyond the last embedding
    model(**{name: flow.tensor(array) for name, array in batch.items()})["sbo_loss"].backward()
    gradients = {name: each.grad.numpy() for name, each in model.named_parameters() if each.grad is not None}
    assert all(np.abs(gradients[name]).sum() > 0 for name, _ in model.named_parameters() if "span_boundary" in name)
    assert np.nonzero(np.abs(gradients["span_boundary.offset_embeddings.weight"]).sum(1))[0].tolist() == [19]


def test_the_rest_of_the_model_starts_with_the_same_weights(tiny_config):
    plain, own = (kind(tiny_config, seed=2).to_arrays() for kind in (BertForPreTraining, BertForSpanPreTraining))
    assert all((own[name] == array).all() for name, array in plain.items())
