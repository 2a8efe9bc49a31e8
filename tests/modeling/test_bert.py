"""The encoder against a plain numpy implementation, in all its variants; its initial weights."""

import dataclasses
import math

import numpy as np
import oneflow as flow
import pytest
from scipy import stats

from modeling import BertForPreTraining, BertModel
from modeling.bert import sinusoids

B, S, H, N, V = 3, 7, 15, 5, 37
MINIMAL = {"norm": "pre", "final_norm": True, "linear_bias": False, "position_embeddings": "sinusoidal"}
MODERN = {
    **{"norm": "pre", "first_norm": False, "norm_bias": False, "feed_forward": "gated", "segment_embeddings": False},
    **{"position_embeddings": "rotary", "rope_theta": 100.0, "local_rope_theta": 10.0, "num_attention_heads": 3},
    **{"attention_window": 4, "global_attention_every": 2, "num_hidden_layers": 3, "hidden_size": 18},
}
VARIANTS = [
    {},
    {"norm": "pre"},
    {"embedding_norm": False, "final_norm": True},
    {"linear_bias": False},
    MINIMAL,
    MODERN,
    {"position_embeddings": "alibi", "hidden_act": "gelu_pytorch_tanh"},
    {"norm_type": "rms", "feed_forward": "gated", "hidden_act": "silu"},
    {"hidden_act": "relu", "attention_window": 2, "global_attention_every": 2},
    {"embedding_size": 11, "position_offset": 2, "pooler_activation": "relu", "classifier_pooling": "mean"},
]
ACTIVATIONS = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
SLOPES = [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2]  # ALiBi's of five heads


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "input_ids": flow.tensor(rng.integers(0, V, (B, S)), dtype=flow.int32),
        "input_mask": flow.tensor(np.arange(S) < np.array([[S], [4], [5]]), dtype=flow.int32),
        "segment_ids": flow.tensor(rng.integers(0, 2, (B, S)), dtype=flow.int32),
    }


def randomize_vectors(model):
    """Replace the initial 0s and 1s of biases and LayerNorms by random values, so that each of them matters."""
    rng = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            values = rng.normal(float(name.endswith("LayerNorm.weight")), 0.3, tuple(parameter.shape))
            parameter.data.copy_(flow.tensor(values.astype(np.float32)))
    return model


def numpy_encoder(arrays, config, input_ids, input_mask, segment_ids):
    """`sequence_output` [B, S, H] in float64."""

    def norm(x, name):
        if f"{name}.weight" not in arrays:
            return x
        centered = x if config.norm_type == "rms" else x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * arrays[f"{name}.weight"] + arrays.get(f"{name}.bias", 0)

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0)

    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    distances = np.abs(np.arange(S)[:, None] - np.arange(S))

    def rotated(x, theta):  # [B, N, S, D]: pairs of elements as complex numbers
        angles = np.arange(S)[:, None] * theta ** (-2 * np.arange(size // 2) / size)
        turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], -1)

    def attention(x, name, local):
        query, key, value = (
            linear(x, f"{name}.{part}").reshape(B, S, heads, size).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )  # [B, N, S, D]
        if config.position_embeddings == "rotary":
            theta = config.local_rope_theta if local else config.rope_theta
            query, key = rotated(query, theta), rotated(key, theta)
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(size)  # [B, N, S, S]
        if config.position_embeddings == "alibi":
            scores = scores - np.array(SLOPES)[:, None, None] * distances
        powers = np.exp(scores) * input_mask[:, None, None, :]
        if local:
            powers = powers * (distances <= config.attention_window // 2)
        context = powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30) @ value
        return context.transpose(0, 2, 1, 3).reshape(B, S, heads * size)

    def table(name):
        return arrays.get(f"embeddings.{name}_embeddings.weight")

    x = table("word")[input_ids]
    if table("position") is not None:
        tokens = input_ids != config.pad_token_id  # RoBERTa counts them
        positions = tokens.cumsum(1) * tokens - 1 if config.position_offset else np.arange(S)
        x = x + table("position")[config.position_offset + positions]
    if table("token_type") is not None:
        x = x + table("token_type")[segment_ids]
    x = norm(x, "embeddings.LayerNorm")
    x = linear(x, "embeddings.projection") if config.embedding_size else x
    activation = ACTIVATIONS[config.hidden_act]
    pre = config.norm == "pre"
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        first, second = f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"
        attended = attention(norm(x, first) if pre else x, f"{layer}.attention.self", config.is_local(i))
        x = x + linear(attended, f"{layer}.attention.output.dense")
        x = x if pre else norm(x, first)
        normed = norm(x, second) if pre else x
        expanded = activation(linear(normed, f"{layer}.intermediate.dense"))
        if config.feed_forward == "gated":
            expanded = expanded * linear(normed, f"{layer}.intermediate.gate")
        x = x + linear(expanded, f"{layer}.output.dense")
        x = x if pre else norm(x, second)
    return norm(x, "encoder.LayerNorm")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant) or "bert")
def test_every_variant_equals_a_numpy_encoder(tiny_config, batch, variant):
    config = dataclasses.replace(tiny_config, **variant)
    model = randomize_vectors(BertModel(config, seed=2)).eval()
    arrays = {name: array.astype(np.float64) for name, array in model.to_arrays().items()}
    outputs = model(**batch)
    expected = numpy_encoder(arrays, config, **{name: tensor.numpy() for name, tensor in batch.items()})
    kept = batch["input_mask"].numpy() == 1  # beyond a window, what a padding token sees is arbitrary
    np.testing.assert_allclose(outputs["sequence_output"].numpy()[kept], expected[kept], atol=2e-5)
    read = expected[:, 0]
    if config.classifier_pooling == "mean":
        read = np.stack([row[mask].mean(0) for row, mask in zip(expected, kept, strict=True)])
    activation = np.tanh if config.pooler_activation == "tanh" else ACTIVATIONS[config.pooler_activation]
    pooled = activation(read @ arrays["pooler.dense.weight"].T + arrays.get("pooler.dense.bias", 0))
    np.testing.assert_allclose(outputs["pooled_output"].numpy(), pooled, atol=2e-5)


def test_positional_arguments_come_in_googles_order(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    by_name = model(**batch)["pooled_output"].numpy()
    by_position = model(batch["input_ids"], batch["input_mask"], batch["segment_ids"])["pooled_output"].numpy()
    np.testing.assert_array_equal(by_name, by_position)


def test_mask_and_segments_default_to_no_padding_and_one_segment(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    ones, zeros = flow.ones(B, S, dtype=flow.int32), flow.zeros(B, S, dtype=flow.int32)
    explicit = model(batch["input_ids"], ones, zeros)["sequence_output"].numpy()
    np.testing.assert_allclose(model(batch["input_ids"])["sequence_output"].numpy(), explicit, atol=1e-6)


def test_padding_does_not_change_the_tokens_outputs(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    before = model(**batch)["sequence_output"].numpy()
    ids = batch["input_ids"].numpy().copy()
    ids[1, 4:] = 1 + ids[1, 4:] % (V - 1)
    after = model(**{**batch, "input_ids": flow.tensor(ids)})["sequence_output"].numpy()
    np.testing.assert_allclose(after[1, :4], before[1, :4], atol=1e-6)
    assert np.abs(after[1, 4:] - before[1, 4:]).max() > 1e-3


def test_dropout_is_applied_in_training_only(tiny_config, batch):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model, without = BertModel(config, seed=2), BertModel(tiny_config, seed=2)
    expected = without.eval()(**batch)["sequence_output"].numpy()
    np.testing.assert_array_equal(model.eval()(**batch)["sequence_output"].numpy(), expected)
    assert np.abs(model.train()(**batch)["sequence_output"].numpy() - expected).max() > 0.1


def test_one_backward_pass_reaches_every_learned_parameter(tiny_config, batch):
    model = BertForPreTraining(dataclasses.replace(tiny_config, **MINIMAL), seed=3)
    labels = flow.tensor(np.array([[0], [1], [0]]))
    outputs = model(**batch, masked_lm_ids=batch["input_ids"], next_sentence_labels=labels)
    outputs["total_loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert without == ["bert.embeddings.position_embeddings.weight"]
    assert all(gradient.abs().max().item() > 0 for gradient in gradients.values() if gradient is not None)


def test_sinusoids_follow_the_published_formula():
    table = sinusoids(11, H, stddev=0.02) / (0.02 * math.sqrt(2))
    assert table.shape == (11, H)
    for i in range(H):
        angles = np.arange(11) / 10000 ** (i // 2 * 2 / H)
        np.testing.assert_allclose(table[:, i], np.cos(angles) if i % 2 else np.sin(angles), atol=1e-5)


def test_initial_weights_have_googles_distribution(tiny_config):
    arrays = BertForPreTraining(dataclasses.replace(tiny_config, vocab_size=3000), seed=4).to_arrays()
    words = arrays["bert.embeddings.word_embeddings.weight"].ravel() / 0.02
    assert np.abs(words).max() <= 2
    assert stats.kstest(words, stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
    for name, array in arrays.items():
        if name.endswith("LayerNorm.weight"):
            assert (array == 1).all(), name
        elif name.endswith("bias"):
            assert (array == 0).all(), name
        else:
            assert array.std() > 0.01, name


def test_the_seed_determines_the_initial_weights(tiny_config):
    first, same, other = (BertForPreTraining(tiny_config, seed=seed).to_arrays() for seed in (1, 1, 2))
    name = "cls.predictions.transform.dense.weight"
    np.testing.assert_array_equal(first[name], same[name])
    assert np.abs(first[name] - other[name]).max() > 0


def test_gradients_of_a_modern_variant_equal_finite_differences(tiny_config, batch):
    model = randomize_vectors(BertForPreTraining(dataclasses.replace(tiny_config, **MODERN), seed=3)).eval()

    def loss():
        return model(**batch, masked_lm_ids=batch["input_ids"])["total_loss"]

    loss().backward()
    rng = np.random.default_rng(5)
    for name in ("0.attention.self.query", "1.attention.self.key", "1.intermediate.gate", "2.output.LayerNorm"):
        parameter = dict(model.named_parameters())[f"bert.encoder.layer.{name}.weight"]
        direction = flow.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype(np.float32))
        slope = float((parameter.grad * direction).sum().numpy())
        values = []
        for sign in (1, -1):
            parameter.data.add_(sign * 2e-3 * direction)
            values.append(float(loss().numpy()))
            parameter.data.add_(-sign * 2e-3 * direction)
        assert (values[0] - values[1]) / 4e-3 == pytest.approx(slope, rel=0.03, abs=5e-3)
