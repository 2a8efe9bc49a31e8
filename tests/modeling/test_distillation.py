"""The terms of distillation against numpy, packed batches against padded ones, and what a student saves."""

import json
from dataclasses import replace

import numpy as np
import oneflow as flow
import pytest

import kernels
from data.reading.packing import pack
from modeling import BertForEmbedding, BertForPreTraining, BertForSequenceClassification, trace
from modeling.distillation import Lesson, SoftTarget, distilled, even_layers, soft_target_losses
from modeling.embedding_losses import CosineSimilarity
from modeling.pretrained import TRAINING_ONLY_FILE, WEIGHTS_FILE, read_weights

T = 3.0  # temperature
MASKED_LM = SoftTarget("prediction_scores", "masked_lm_weights")
ALL = Lesson((MASKED_LM,), (0, 2), weight=0.3, temperature=T, hidden_weight=0.7, attention_weight=1.9)


@pytest.fixture
def teacher(tiny_config):
    """Three layers; wider than the student, with other heads."""
    config = replace(tiny_config, num_hidden_layers=3, hidden_size=20, num_attention_heads=10, initializer_range=0.4)
    return BertForPreTraining(config, seed=4)


def student_of(teacher, config, lesson=ALL, kind=BertForPreTraining):
    model = distilled(kind)(replace(config, initializer_range=0.3), 1)
    model.learn_from(teacher, lesson)
    return model.train()


def tensors(batch):
    return {name: flow.tensor(array) for name, array in batch.items()}


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(targets, scores):
    wanted, found = softmax(targets.astype(np.float64)), softmax(scores.astype(np.float64))
    ratios = np.divide(wanted, found, out=np.ones_like(wanted), where=wanted > 0)
    return (wanted * np.log(ratios)).sum(-1)


def traced(model, batch, layer):
    inputs = {name: batch[name] for name in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")}
    with flow.no_grad(), trace.recording(layer) as seen:
        outputs = model(**inputs)
    return outputs["prediction_scores"].numpy(), [x.numpy() for x in seen.hidden], [x.numpy() for x in seen.attention]


def mean_over_tokens(items, batch):
    """The mean over the tokens of a row, then over the rows by weight; items [B, S]."""
    mask, weights = batch["input_mask"].numpy(), batch["example_weights"].numpy()
    return ((items * mask).sum(1) / mask.sum(1) * weights).sum() / weights.sum()


def relation(x, mask, heads):
    split = x.astype(np.float64).reshape(*mask.shape, heads, -1)
    scores = np.einsum("bqnd,bknd->bnqk", split, split) / np.sqrt(split.shape[-1])
    return np.where(mask[:, None, None, :] == 1, scores, -1e4)


def test_all_terms_equal_numpy(teacher, tiny_config, pretraining_batch):
    arrays = pretraining_batch(7)
    arrays["example_weights"][-1] = 0
    batch, student = tensors(arrays), student_of(teacher, tiny_config)
    outputs = student(**batch, loss_reduction="mean")
    plain = BertForPreTraining.forward(student, **batch)["total_loss"].item()
    scores, own, attention = traced(student, batch, 1)
    targets, wanted, teachers = traced(teacher, batch, 2)

    weights = arrays["masked_lm_weights"]
    soft = (T**2 * divergence(targets / T, scores / T) * weights).sum() / weights.sum()
    projection = student.hidden_projection
    matrix, bias = projection.weight.numpy(), projection.bias.numpy()
    pairs = [(own[0], wanted[0]), (own[1], wanted[1]), (own[2], wanted[3])]
    errors = sum(((found @ matrix.T + bias - other) ** 2).mean(-1) for found, other in pairs)
    hidden = mean_over_tokens(errors.reshape(weights.shape[0], -1), batch)
    mask = arrays["input_mask"]
    relations = [
        divergence(relation(other, mask, 5), relation(found, mask, 5)).mean(1)  # 5 divides both numbers of heads
        for found, other in zip(attention, teachers, strict=True)
    ]
    expected = {
        "label_loss": plain,
        "distill_loss": soft,
        "distill_hidden_loss": hidden,
        "distill_attention_loss": mean_over_tokens(np.mean(relations, axis=0), batch),
    }
    expected["total_loss"] = 0.7 * plain + 0.3 * soft + 0.7 * hidden + 1.9 * expected["distill_attention_loss"]
    assert {name: outputs[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 1e-3


def test_soft_targets_equal_numpy():
    rng = np.random.default_rng(0)
    found, wanted = (rng.standard_normal((7, 5)) for _ in range(2))

    def losses(kind):
        return soft_target_losses(kind, flow.tensor(found), flow.tensor(wanted), T).numpy()

    np.testing.assert_allclose(losses("classes"), T**2 * divergence(wanted / T, found / T), atol=1e-6)
    binary = divergence(np.stack([wanted / T, 0 * wanted], -1), np.stack([found / T, 0 * found], -1))
    np.testing.assert_allclose(losses("labels"), (T**2 * binary).mean(-1), atol=1e-6)
    np.testing.assert_allclose(losses("numbers"), ((found - wanted) ** 2).mean(-1), atol=1e-6)
    vectors = [array[:6].reshape(3, 2, 5) for array in (found, wanted)]
    cosines = (vectors[0] * vectors[1]).sum(-1) / np.prod([np.linalg.norm(each, axis=-1) for each in vectors], axis=0)
    distances = soft_target_losses("vectors", *map(flow.tensor, vectors), T).numpy()
    np.testing.assert_allclose(distances, (1 - cosines).mean(1), atol=1e-6)


def test_the_projection_is_trained_and_the_teacher_is_not(teacher, tiny_config, pretraining_batch):
    student = student_of(teacher, tiny_config)
    student(**tensors(pretraining_batch(5)), loss_reduction="sum")["total_loss"].backward()
    trained = {name for name, each in student.named_parameters() if each.grad is not None}
    assert trained == {name for name, _ in student.own_parameters()}
    assert {"hidden_projection.weight", "hidden_projection.bias"} <= trained
    assert not teacher.training and student.training


@pytest.mark.skipif(not kernels.is_loaded(), reason="--padding none needs this project's kernels")
def test_packed_batches_have_the_losses_of_padded_ones(teacher, tiny_config, pretraining_batch):
    batch, student = pretraining_batch(6), student_of(teacher, tiny_config)
    packed = pack(batch, 3, int(batch["input_mask"].reshape(2, -1).sum(1).max()) + 5)
    wanted, found = (student(**tensors(each), loss_reduction="mean") for each in (batch, packed))
    for name in ("total_loss", "distill_loss", "distill_hidden_loss", "distill_attention_loss"):
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-5)


def test_a_student_saves_its_own_weights_for_other_libraries(teacher, tiny_config, tmp_path, capfd):
    student = student_of(teacher, tiny_config)
    student.save_pretrained(tmp_path)
    plain = BertForPreTraining(tiny_config)
    assert set(read_weights(tmp_path / WEIGHTS_FILE)) == set(plain.to_arrays())
    assert set(read_weights(tmp_path / TRAINING_ONLY_FILE)) == {"hidden_projection.weight", "hidden_projection.bias"}
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForPreTraining"]
    again = student_of(teacher, tiny_config)
    again.hidden_projection.weight.data.zero_()
    again.load_arrays(read_weights(tmp_path / WEIGHTS_FILE), source=str(tmp_path))
    expected = student.to_arrays()
    assert all((array == expected[name]).all() for name, array in again.to_arrays().items())
    assert "initialized randomly" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [BertForEmbedding, BertForSequenceClassification])
def test_a_student_without_a_teacher_is_a_model_of_its_class(kind, tiny_config, pretraining_batch):
    batch = {name: array for name, array in pretraining_batch(3).items() if name.startswith(("input", "segment"))}
    if kind is BertForEmbedding:
        batch = {name: array[:, None] for name, array in batch.items()}
    plain, student = kind(tiny_config, 2).eval(), distilled(kind)(tiny_config, 2).eval()
    assert list(student.to_arrays()) == list(plain.to_arrays())
    for name, value in plain(**tensors(batch)).items():
        np.testing.assert_array_equal(student(**tensors(batch))[name].numpy(), value.numpy())


def test_layers_are_evenly_spaced_and_end_with_the_last():
    assert even_layers(6, 12) == (1, 3, 5, 7, 9, 11)
    assert even_layers(4, 6) == (1, 2, 3, 5) and even_layers(3, 2) == (0, 0, 1) and even_layers(2, 2) == (0, 1)


def test_each_text_of_a_row_learns_its_own_vector(tiny_config, pretraining_batch):
    arrays = {name: array for name, array in pretraining_batch(6).items() if name.startswith(("input", "segment"))}
    batch = {name: array.reshape(3, 2, -1) for name, array in arrays.items()}
    batch |= {"scores": np.ones((3, 1), np.float32), "example_weights": np.array([1, 1, 0], np.float32)}
    teacher = BertForEmbedding(replace(tiny_config, num_hidden_layers=3, initializer_range=0.4), 4)
    lesson = Lesson((SoftTarget("embeddings", "example_weights", "vectors"),), (0, 2), weight=1.0)
    student = student_of(teacher, tiny_config, lesson, BertForEmbedding)
    student.loss = CosineSimilarity()
    loss = student(**tensors(batch))["total_loss"].item()
    inputs = {name: flow.tensor(batch[name]) for name in arrays}
    own, other = (model.eval()(**inputs)["embeddings"].numpy().reshape(3, 2, -1) for model in (student, teacher))
    cosines = (own * other).sum(-1) / np.linalg.norm(own, axis=-1) / np.linalg.norm(other, axis=-1)
    assert loss == pytest.approx((1 - cosines)[:2].mean(), rel=1e-5)
