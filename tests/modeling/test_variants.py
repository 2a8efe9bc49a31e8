"""The encoder's variants: beside a plain numpy model, every parameter learns, saved and loaded, refused in conflict."""

import json
import math

import numpy as np
import oneflow as flow
import pytest

from configs.model import BertConfig, ModelFlags
from conversion import read_checkpoint
from modeling import BertForPreTraining, BertModel
from training.optimizer import trained_parameters
from utils.errors import UserError

B, S = 3, 7
MINIMAL = {"norm": "pre", "final_norm": True, "linear_bias": False, "position_embeddings": "sinusoidal"}
VARIANTS = [{}, {"norm": "pre"}, {"embedding_norm": False, "final_norm": True}, {"linear_bias": False}, MINIMAL]


def config(**variant):
    return BertConfig(
        vocab_size=37,
        hidden_size=15,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=19,
        max_position_embeddings=11,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **variant,
    )


def shaken(model):
    """The model with biases and norms that are not at their neutral first values."""
    rng = np.random.default_rng(1)
    for name, parameter in trained_parameters(model):
        if parameter.dim() == 1:
            values = rng.normal(float(name.endswith("LayerNorm.weight")), 0.3, tuple(parameter.shape))
            parameter.data.copy_(flow.tensor(values.astype(np.float32)))
    return model


def encoded(arrays, shape, input_ids):
    """The encoder in numpy, one plain line a layer."""

    def norm(x, name):
        if f"{name}.weight" not in arrays:
            return x
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0)

    def attention(x, name):
        parts = [
            linear(x, f"{name}.{part}").reshape(B, S, 5, 3).transpose(0, 2, 1, 3) for part in ("query", "key", "value")
        ]
        scores = np.exp(parts[0] @ parts[1].transpose(0, 1, 3, 2) / math.sqrt(3))
        return (scores / scores.sum(-1, keepdims=True) @ parts[2]).transpose(0, 2, 1, 3).reshape(B, S, 15)

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    table = {name: arrays[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    x = norm(table["word"][input_ids] + table["position"][:S] + table["token_type"][0], "embeddings.LayerNorm")
    pre = shape.norm == "pre"
    for i in range(2):
        layer = f"encoder.layer.{i}"
        first, second = f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"
        read = norm(x, first) if pre else x
        x = x + linear(attention(read, f"{layer}.attention.self"), f"{layer}.attention.output.dense")
        x = x if pre else norm(x, first)
        read = norm(x, second) if pre else x
        x = x + linear(gelu(linear(read, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        x = x if pre else norm(x, second)
    return norm(x, "encoder.LayerNorm")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant) or "bert")
def test_the_encoder_is_the_plain_one(variant):
    shape = config(**variant)
    model = shaken(BertModel(shape, seed=2)).eval()
    input_ids = np.random.default_rng(0).integers(0, 37, (B, S))
    arrays = {name: array.astype(np.float64) for name, array in model.to_arrays().items()}
    output = model(flow.tensor(input_ids))["sequence_output"].numpy()
    np.testing.assert_allclose(output, encoded(arrays, shape, input_ids), atol=2e-5)


def test_every_parameter_learns_but_fixed_positions():
    model = BertForPreTraining(config(**MINIMAL), seed=3)
    ids = flow.tensor(np.random.default_rng(0).integers(0, 37, (B, S)))
    labels = flow.tensor(np.array([[0], [1], [0]]))
    model(ids, masked_lm_ids=ids, next_sentence_labels=labels)["total_loss"].backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert still == ["bert.embeddings.position_embeddings.weight"]
    assert "bert.embeddings.position_embeddings.weight" not in dict(trained_parameters(model))
    positions = model.bert.embeddings.position_embeddings.weight.numpy()
    angles = np.arange(11) * 10000.0 ** (-4 / 15)  # the third pair's
    np.testing.assert_allclose(positions[:, 4] / (0.02 * math.sqrt(2)), np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(positions[:, 5] / (0.02 * math.sqrt(2)), np.cos(angles), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant) or "bert")
def test_saved_and_loaded(tmp_path, variant):
    shape = config(**variant)
    model = shaken(BertForPreTraining(shape, seed=4))
    model.save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert kind == ("bert-variant" if variant else "bert")
    read = read_checkpoint(tmp_path)
    assert read.config == shape
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(read.state[name], array)
    again = BertForPreTraining.from_pretrained(tmp_path)
    assert again.config == shape


def test_the_preset_and_flags_that_contradict_a_checkpoint():
    minimal = ModelFlags(model_size="bert-minimal").bert_config(vocab_size=37)
    assert all(getattr(minimal, name) == value for name, value in MINIMAL.items())
    assert (minimal.num_hidden_layers, minimal.hidden_size, minimal.hidden_dropout_prob) == (12, 768, 0.0)
    assert ModelFlags(norm="pre").bert_config(config(**MINIMAL)) == config(**MINIMAL)
    for flags in (ModelFlags(norm="post"), ModelFlags(linear_bias=True), ModelFlags(position_embeddings="learned")):
        with pytest.raises(UserError, match="weights to start from"):
            flags.bert_config(config(**MINIMAL))
    with pytest.raises(UserError, match="--norm"):
        config(norm="between")
