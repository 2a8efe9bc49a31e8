"""Replaced-token detection against Hugging Face's ELECTRA: the same samples, losses and gradients."""

from pathlib import Path

import numpy as np
import oneflow as flow
import pytest
from safetensors.numpy import load_file

from configs.model import BertConfig
from modeling.electra import ReplacedTokenModel, detection, sample
from utils.errors import UserError

REFERENCE = load_file(str(Path(__file__).parents[1] / "fixtures/electra/reference.safetensors"))
CONFIG = BertConfig(
    vocab_size=37,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=19,
    max_position_embeddings=13,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def part(prefix):
    return {name.removeprefix(prefix): array for name, array in REFERENCE.items() if name.startswith(prefix)}


@pytest.fixture
def model():
    """The reference's weights; its generator has one of three heads."""
    made = ReplacedTokenModel(CONFIG, width=1 / 3)
    missing = made.load_arrays(part("weight."), source="the reference")
    assert not missing and set(part("weight.")) == {name for name, _ in made.named_parameters()}
    return made


def test_losses_samples_and_gradients_are_those_of_hugging_face(model):
    outputs = model(**{name: flow.tensor(array) for name, array in part("batch.").items()})
    np.testing.assert_array_equal(outputs["corrupted_ids"].numpy(), REFERENCE["corrupted_ids"])
    for ours, theirs in (("mlm_loss", "mlm_loss"), ("rtd_loss", "rtd_loss")):
        np.testing.assert_allclose(outputs[ours].numpy(), REFERENCE[theirs], rtol=1e-5)
    inside = part("batch.")["input_mask"] == 1
    logits = outputs["detection_logits"].numpy()[inside]
    np.testing.assert_allclose(logits, REFERENCE["logits"][inside], rtol=1e-4, atol=1e-5)
    outputs["total_loss"].backward()
    for name, parameter in model.named_parameters():
        expected = REFERENCE[f"gradient.{name}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(parameter.grad.numpy(), expected, atol=1e-5 * max(1.0, scale), err_msg=name)


def test_no_gradient_of_the_detection_reaches_the_generator(model):
    batch = {name: flow.tensor(array) for name, array in part("batch.").items()}
    model(**batch)["rtd_loss"].backward()
    moved = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert moved and not any(name.startswith("generator") for name in moved)


def test_samples_follow_the_distribution():
    scores = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    draws = (np.arange(1000, dtype=np.float32)[:, None] + 0.5) / 1000
    found = sample(flow.tensor(np.repeat(scores, 1000, 0)), flow.tensor(draws)).numpy()
    np.testing.assert_allclose(np.bincount(found.astype(int)) / 1000, [0.1, 0.6, 0.3], atol=0.002)
    assert sample(flow.tensor(scores), flow.tensor([[1.0]])).numpy() == 2  # rounding never leaves the vocabulary


def test_shares_of_tokens_are_counted_without_padding():
    logits, replaced = flow.tensor([[2.0], [1.0], [-1.0], [3.0]]), flow.tensor([[1.0], [0.0], [1.0], [1.0]])
    found = detection(logits, replaced, flow.tensor([1.0, 1.0, 1.0, 0.0]), "mean")
    values = {name: float(value.numpy()) for name, value in found.items() if name != "rtd_loss"}
    third = pytest.approx(1 / 3)
    assert values == {
        "rtd_accuracy": third,
        "rtd_replaced": pytest.approx(2 / 3),
        "rtd_flagged": pytest.approx(2 / 3),
        "rtd_found": third,
    }


def test_directories_hold_what_hugging_face_reads(model, tmp_path):
    model.save_pretrained(tmp_path, tokenizer={"vocab.txt": b"[PAD]\n"})
    generator = load_file(str(tmp_path / "generator/model.safetensors"))
    assert {name.split(".")[0] for name in generator} == {"electra", "generator_predictions", "generator_lm_head"}
    assert generator["electra.embeddings_project.weight"].shape == (5, 15)
    np.testing.assert_array_equal(
        generator["electra.encoder.layer.1.output.dense.bias"],
        part("weight.")["generator.encoder.layer.1.output.dense.bias"],
    )
    assert BertConfig.from_json(tmp_path / "config.json").hidden_size == 15
    again = ReplacedTokenModel(CONFIG, seed=9, width=1 / 3)
    again.load_arrays({}, source=str(tmp_path))
    for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, part("weight.")[name], err_msg=name)


def test_variants_of_the_encoder_are_refused():
    with pytest.raises(UserError, match="--objective rtd only supports BERT's encoder"):
        ReplacedTokenModel(BertConfig(norm="pre"))
