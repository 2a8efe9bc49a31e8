"""Outputs, losses and accuracies of the heads against numpy; test_huggingface.py compares logits and gradients."""

import dataclasses

import numpy as np
import oneflow as flow
import pytest

from modeling import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification

B, S, P, H, V = 3, 7, 2, 15, 37


def tensor(array):
    return flow.tensor(array, dtype=flow.float32 if array.dtype.kind == "f" else flow.int32)


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return {
        "input_ids": tensor(rng.integers(0, V, (B, S))),
        "input_mask": tensor(np.arange(S) < np.array([[S], [4], [5]])),
        "segment_ids": tensor(rng.integers(0, 2, (B, S))),
    }


@pytest.fixture
def pretraining_labels():
    rng = np.random.default_rng(1)
    return {
        "masked_lm_positions": rng.integers(0, S, (B, P)),
        "masked_lm_ids": rng.integers(0, V, (B, P)),
        "masked_lm_weights": np.array([[1, 1], [1, 0], [1, 1]], np.float32),
        "next_sentence_labels": np.array([[1], [0], [0]]),
    }


def tensors(arrays):
    return {name: tensor(array) for name, array in arrays.items()}


def cross_entropies(logits, labels):
    """logits [..., C], labels [...] -> [...]."""
    logits = logits.numpy().astype(np.float64)
    log_sums = np.log(np.exp(logits).sum(-1))
    return log_sums - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def test_pretraining_outputs_have_documented_shapes(tiny_config, inputs):
    outputs = BertForPreTraining(tiny_config).eval()(**inputs)
    shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    assert shapes == {
        "sequence_output": (B, S, H),
        "pooled_output": (B, H),
        "prediction_scores": (B, S, V),
        "logits": (B, S, V),
        "seq_relationship_score": (B, 2),
    }


def test_masked_positions_select_prediction_scores(tiny_config, inputs, pretraining_labels):
    model = BertForPreTraining(tiny_config).eval()
    positions = pretraining_labels["masked_lm_positions"]
    selected = model(**inputs, masked_lm_positions=tensor(positions))["prediction_scores"].numpy()
    everywhere = model(**inputs)["prediction_scores"].numpy()
    np.testing.assert_allclose(selected, np.take_along_axis(everywhere, positions[:, :, None], 1), rtol=1e-5, atol=1e-6)


def test_pretraining_losses_and_accuracies(tiny_config, inputs, pretraining_labels):
    labels, weights = pretraining_labels["masked_lm_ids"], pretraining_labels["masked_lm_weights"]
    next_sentence, rows = pretraining_labels["next_sentence_labels"][:, 0], np.array([1, 1, 0], np.float32)
    model = BertForPreTraining(tiny_config).eval()
    outputs = model(**inputs, **tensors(pretraining_labels), example_weights=tensor(rows))
    scores, relationship = outputs["prediction_scores"], outputs["seq_relationship_score"]
    mlm = (cross_entropies(scores, labels) * weights).sum() / weights.sum()
    nsp = (cross_entropies(relationship, next_sentence) * rows).sum() / rows.sum()
    assert outputs["mlm_loss"].item() == pytest.approx(mlm, rel=1e-5)
    assert outputs["nsp_loss"].item() == pytest.approx(nsp, rel=1e-5)
    assert outputs["total_loss"].item() == pytest.approx(mlm + nsp, rel=1e-5)
    correct = ((scores.numpy().argmax(-1) == labels) * weights).sum() / weights.sum()
    assert outputs["mlm_accuracy"].item() == pytest.approx(correct)
    correct = ((relationship.numpy().argmax(-1) == next_sentence) * rows).sum() / rows.sum()
    assert outputs["nsp_accuracy"].item() == pytest.approx(correct)


def test_pretraining_computes_only_the_losses_that_have_labels(tiny_config, inputs, pretraining_labels):
    model, labels = BertForPreTraining(tiny_config).train(), tensors(pretraining_labels)
    next_sentence = {"next_sentence_labels": labels.pop("next_sentence_labels")}
    outputs = model(**inputs, **labels)
    assert {"mlm_loss", "total_loss"} == {name for name in outputs if name.endswith(("_loss", "_accuracy"))}
    assert outputs["total_loss"].item() == outputs["mlm_loss"].item()
    outputs = model(**inputs, **next_sentence)
    assert {"nsp_loss", "nsp_accuracy", "total_loss"} == {n for n in outputs if n.endswith(("_loss", "_accuracy"))}
    assert outputs["total_loss"].item() == outputs["nsp_loss"].item()


def test_pretraining_weights_default_to_1(tiny_config, inputs, pretraining_labels):
    model = BertForPreTraining(tiny_config).eval()
    ones = {"masked_lm_weights": np.ones((B, P), np.float32), "example_weights": np.ones(B, np.float32)}
    explicit = model(**inputs, **tensors(pretraining_labels | ones))["total_loss"].item()
    del pretraining_labels["masked_lm_weights"]
    assert model(**inputs, **tensors(pretraining_labels))["total_loss"].item() == explicit


def test_question_answering_loss_is_the_mean_over_both_ends(tiny_config, inputs):
    starts, ends = np.array([[2], [0], [4]]), np.array([[5], [0], [4]])
    rows = np.array([1, 0, 1], np.float32)
    model = BertForQuestionAnswering(tiny_config).eval()
    outputs = model(**inputs, start_positions=tensor(starts), end_positions=tensor(ends), example_weights=tensor(rows))
    assert tuple(outputs["start_logits"].shape) == tuple(outputs["end_logits"].shape) == (B, S)
    both = [cross_entropies(outputs[f"{name}_logits"], p[:, 0]) for name, p in (("start", starts), ("end", ends))]
    expected = (np.mean(both, axis=0) * rows).sum() / rows.sum()
    assert outputs["total_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert "total_loss" not in model(**inputs)


def test_classification_loss_and_accuracy(tiny_config, inputs):
    labels, rows = np.array([[4], [0], [2]]), np.array([1, 1, 0], np.float32)
    model = BertForSequenceClassification(dataclasses.replace(tiny_config, num_labels=5)).eval()
    outputs = model(**inputs, label_ids=tensor(labels), example_weights=tensor(rows))
    assert tuple(outputs["logits"].shape) == (B, 5)
    expected = (cross_entropies(outputs["logits"], labels[:, 0]) * rows).sum() / 2
    assert outputs["total_loss"].item() == pytest.approx(expected, rel=1e-5)
    correct = (outputs["logits"].numpy().argmax(-1) == labels[:, 0])[:2].mean()
    assert outputs["accuracy"].item() == pytest.approx(correct)


def test_one_label_means_regression_with_squared_error(tiny_config, inputs):
    targets, rows = np.array([[2.5], [-1.0], [0.5]], np.float32), np.array([1, 1, 0], np.float32)
    model = BertForSequenceClassification(dataclasses.replace(tiny_config, num_labels=1)).eval()
    outputs = model(**inputs, label_ids=tensor(targets), example_weights=tensor(rows))
    errors = (outputs["logits"].numpy()[:, 0] - targets[:, 0]) ** 2
    assert outputs["total_loss"].item() == pytest.approx((errors * rows).sum() / 2, rel=1e-5)
    assert "accuracy" not in outputs


def test_the_classifier_drops_out_the_pooled_output_in_training(tiny_config, inputs):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.5)
    model = BertForSequenceClassification(config, seed=1).eval()
    expected = model(**inputs)["logits"].numpy()
    model.training = True  # but not the encoder
    assert np.abs(model(**inputs)["logits"].numpy() - expected).max() > 1e-4


@pytest.mark.parametrize("rows", [1, 2])
def test_sums_over_micro_batches_add_up_to_the_mean_of_the_batch(tiny_config, inputs, pretraining_labels, rows):
    model = BertForPreTraining(tiny_config).eval()
    weights = np.array([1, 1, 0], np.float32)
    labels = tensors(pretraining_labels)
    whole = model(**inputs, **labels, example_weights=tensor(weights))
    labels["masked_lm_weights"] = tensor(pretraining_labels["masked_lm_weights"] / 5)
    batch = inputs | labels | {"example_weights": tensor(weights / 2)}
    parts = [
        model(**{name: values[first : first + rows] for name, values in batch.items()}, loss_reduction="sum")
        for first in range(0, B, rows)
    ]
    for name in ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "total_loss"):
        assert sum(part[name].item() for part in parts) == pytest.approx(whole[name].item(), rel=1e-5), name
