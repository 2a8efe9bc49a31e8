"""Shapes, first weights, masks, and model directories."""

import dataclasses
import json

import numpy as np
import oneflow as flow
import pytest
from scipy import stats

from configs.model import BertConfig, ModelFlags
from modeling import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification, BertModel
from utils.errors import UserError

B, S, P, H, V = 2, 7, 3, 15, 37


def tensors(rng):
    return {
        "input_ids": flow.tensor(rng.integers(0, V, (B, S)), dtype=flow.int32),
        "input_mask": flow.tensor(np.arange(S) < np.array([[S], [4]]), dtype=flow.int32),
        "segment_ids": flow.tensor(rng.integers(0, 2, (B, S)), dtype=flow.int32),
    }


@pytest.fixture
def batch():
    return tensors(np.random.default_rng(0))


def test_outputs_with_and_without_positions(tiny_config, batch):
    model = BertForPreTraining(tiny_config).eval()
    everywhere = model(**batch)
    assert set(everywhere) == {"sequence_output", "pooled_output", "prediction_scores", "seq_relationship_score"}
    assert tuple(everywhere["sequence_output"].shape) == (B, S, H)
    assert tuple(everywhere["pooled_output"].shape) == (B, H)
    assert tuple(everywhere["prediction_scores"].shape) == (B, S, V)
    assert tuple(everywhere["seq_relationship_score"].shape) == (B, 2)
    positions = np.array([[0, 2, 5], [3, 3, 1]], np.int32)
    some = model(**batch, masked_lm_positions=flow.tensor(positions))["prediction_scores"].numpy()
    expected = np.take_along_axis(everywhere["prediction_scores"].numpy(), positions[:, :, None], axis=1)
    np.testing.assert_allclose(some, expected, rtol=1e-5, atol=1e-6)


def test_positional_arguments_in_googles_order(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    named = model(**batch)["pooled_output"].numpy()
    placed = model(batch["input_ids"], batch["input_mask"], batch["segment_ids"])["pooled_output"].numpy()
    np.testing.assert_array_equal(named, placed)


def test_defaults_are_one_segment_without_padding(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    ones, zeros = flow.ones(B, S, dtype=flow.int32), flow.zeros(B, S, dtype=flow.int32)
    spelled_out = model(batch["input_ids"], ones, zeros)["sequence_output"].numpy()
    np.testing.assert_allclose(model(batch["input_ids"])["sequence_output"].numpy(), spelled_out, atol=1e-6)


def test_padding_is_not_attended_to(tiny_config, batch):
    model = BertModel(tiny_config).eval()
    before = model(**batch)["sequence_output"].numpy()
    ids = batch["input_ids"].numpy().copy()
    ids[1, 4:] = 1 + ids[1, 4:] % (V - 1)
    after = model(**{**batch, "input_ids": flow.tensor(ids)})["sequence_output"].numpy()
    np.testing.assert_allclose(after[1, :4], before[1, :4], atol=1e-6)
    assert np.abs(after[1, 4:] - before[1, 4:]).max() > 1e-3


def test_losses_by_hand(tiny_config, batch):
    rng = np.random.default_rng(1)
    labels, weights = rng.integers(0, V, (B, P)), np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    next_sentence = np.array([[1], [0]])
    model = BertForPreTraining(tiny_config).eval()
    outputs = model(
        **batch,
        masked_lm_positions=flow.tensor(rng.integers(0, S, (B, P)), dtype=flow.int32),
        masked_lm_ids=flow.tensor(labels, dtype=flow.int32),
        masked_lm_weights=flow.tensor(weights),
        next_sentence_labels=flow.tensor(next_sentence, dtype=flow.int32),
    )

    def log_softmax(x):
        return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)

    tokens = -np.take_along_axis(log_softmax(outputs["prediction_scores"].numpy()), labels[:, :, None], 2)[:, :, 0]
    pairs = -np.take_along_axis(log_softmax(outputs["seq_relationship_score"].numpy()), next_sentence, 1)
    mlm, nsp = (tokens * weights).sum() / weights.sum(), pairs.mean()
    assert outputs["mlm_loss"].item() == pytest.approx(mlm, rel=1e-5)
    assert outputs["nsp_loss"].item() == pytest.approx(nsp, rel=1e-5)
    assert outputs["total_loss"].item() == pytest.approx(mlm + nsp, rel=1e-5)
    right = (outputs["prediction_scores"].numpy().argmax(-1) == labels) * weights
    assert outputs["mlm_accuracy"].item() == pytest.approx(right.sum() / weights.sum())


def test_first_weights_are_googles(tiny_config):
    arrays = BertForPreTraining(dataclasses.replace(tiny_config, vocab_size=3000), seed=4).to_arrays()
    words = arrays["bert.embeddings.word_embeddings.weight"].ravel() / 0.02
    assert np.abs(words).max() <= 2
    assert stats.kstest(words, stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
    for name, array in arrays.items():
        if name.endswith("LayerNorm.weight"):
            assert (array == 1).all()
        elif name.endswith("bias"):
            assert (array == 0).all()
        else:
            assert array.std() > 0.01, name


def test_seeds_decide_the_first_weights(tiny_config):
    first, same, other = (BertForPreTraining(tiny_config, seed=seed).to_arrays() for seed in (1, 1, 2))
    name = "cls.predictions.transform.dense.weight"
    np.testing.assert_array_equal(first[name], same[name])
    assert np.abs(first[name] - other[name]).max() > 0


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification])
def test_directories_hold_the_model(kind, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, num_labels=5)
    model = kind(config, seed=3)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    expected_config = config if kind is BertForSequenceClassification else dataclasses.replace(config, num_labels=2)
    assert again.config == expected_config
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind.__name__]
    arrays = again.to_arrays()
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_new_head_starts_afresh_and_says_so(tiny_config, tmp_path, capsys):
    pretrained = BertForPreTraining(tiny_config, seed=3)
    pretrained.save_pretrained(tmp_path)
    model = BertForQuestionAnswering.from_pretrained(tmp_path)
    assert "qa_outputs: it is initialized at random" in capsys.readouterr().err
    name = "bert.encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(model.to_arrays()[name], pretrained.to_arrays()[name])


def test_damage_is_named(tiny_config, tmp_path):
    BertForPreTraining(tiny_config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": V + 1}))
    with pytest.raises(UserError, match=r"word_embeddings\.weight has shape \[37, 15\], the model \[38, 15\]"):
        BertForPreTraining.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match="lacks 16 tensors of the encoder"):
        BertForPreTraining.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        BertForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        BertForPreTraining.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (24, 1024, 16, 4096)),
        ({"model_size": "mini"}, (4, 256, 4, 1024)),
        ({"num_hidden_layers": 12, "num_attention_heads": 12}, (12, 768, 12, 3072)),
        ({"num_attention_heads": 3, "hidden_size_per_head": 5}, (24, 15, 3, 60)),
        ({"model_size": "base", "num_hidden_layers": 5, "intermediate_size": 7}, (5, 768, 12, 7)),
        ({"model_size": "tiny", "num_attention_heads": 4}, (2, 128, 4, 512)),
    ],
)
def test_flags_make_the_model(flags, expected):
    config = ModelFlags(**flags).bert_config()
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert shape == expected


@pytest.mark.parametrize(
    ("size", "layers", "hidden"),
    [
        ("tiny", 2, 128),
        ("mini", 4, 256),
        ("small", 4, 512),
        ("medium", 8, 512),
        ("base", 12, 768),
        ("large", 24, 1024),
    ],
)
def test_presets_are_googles(size, layers, hidden):
    config = ModelFlags(model_size=size).bert_config()
    assert (config.num_hidden_layers, config.hidden_size) == (layers, hidden)
    assert (config.num_attention_heads, config.intermediate_size) == (hidden // 64, 4 * hidden)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_size": "mini", "num_attention_heads": 5}, "--num_attention_heads 5 must divide the hidden size 256"),
        ({"num_hidden_layers": 0}, "--num_hidden_layers must be at least 1"),
        ({"hidden_dropout_prob": 1.0}, "--hidden_dropout_prob must be at least 0 and below 1"),
    ],
)
def test_impossible_models_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        ModelFlags(**flags).bert_config()


def test_flags_that_contradict_the_weights_are_named():
    flags = ModelFlags(num_hidden_layers=3, init_checkpoint="there")
    with pytest.raises(UserError, match="num_hidden_layers 3, but the weights to start from have 12"):
        flags.bert_config(BertConfig())
    assert ModelFlags(hidden_dropout_prob=0.3).bert_config(BertConfig()).hidden_dropout_prob == 0.3


def test_operations_counted_by_hand():
    config = BertConfig(vocab_size=37, hidden_size=6, num_hidden_layers=2, num_attention_heads=3, intermediate_size=10)
    seq, predictions, hidden, inner = 5, 2, 6, 10
    attention = 4 * seq * hidden * hidden + 2 * seq * seq * hidden  # multiplications: projections, scores and sums
    layer = attention + 2 * seq * hidden * inner
    head = predictions * (hidden * hidden + hidden * 37) + hidden * hidden
    assert config.forward_flops(seq, predictions) == 2 * (2 * layer + head)
