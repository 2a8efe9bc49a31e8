"""The shapes of models that flags describe, and the operations of a forward pass."""

import dataclasses

import pytest

from configs.memory import num_parameters
from configs.model import BertConfig, ModelFlags
from utils.errors import UserError

MINIMAL = {"norm": "pre", "final_norm": True, "linear_bias": False, "position_embeddings": "sinusoidal"}


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
def test_flags_determine_the_model(flags, expected):
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
def test_presets_have_googles_sizes(size, layers, hidden):
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
def test_impossible_models_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        ModelFlags(**flags).bert_config()


def test_flags_that_contradict_the_weights_are_refused():
    flags = ModelFlags(num_hidden_layers=3, init_checkpoint="there")
    with pytest.raises(UserError, match="num_hidden_layers 3, but the weights to start from have 12"):
        flags.bert_config(BertConfig())
    assert ModelFlags(hidden_dropout_prob=0.3).bert_config(BertConfig()).hidden_dropout_prob == 0.3


def test_forward_flops_equal_a_count_by_hand():
    config = BertConfig(vocab_size=37, hidden_size=6, num_hidden_layers=2, num_attention_heads=3, intermediate_size=10)
    seq, predictions, hidden, inner = 5, 2, 6, 10
    attention = 4 * seq * hidden * hidden + 2 * seq * seq * hidden  # multiplications: projections, scores and sums
    layer = attention + 2 * seq * hidden * inner
    head = predictions * (hidden * hidden + hidden * 37) + hidden * hidden
    assert config.forward_flops(seq, predictions) == 2 * (2 * layer + head)


def test_bert_minimal_sets_the_variants():
    config = ModelFlags(model_size="bert-minimal").bert_config(vocab_size=37)
    assert all(getattr(config, name) == value for name, value in MINIMAL.items())
    assert (config.num_hidden_layers, config.hidden_size, config.hidden_dropout_prob) == (12, 768, 0.0)


def test_variant_flags_must_match_the_weights(tiny_config):
    config = dataclasses.replace(tiny_config, **MINIMAL)
    assert ModelFlags(norm="pre").bert_config(config) == config
    for flags in (ModelFlags(norm="post"), ModelFlags(linear_bias=True), ModelFlags(position_embeddings="learned")):
        with pytest.raises(UserError, match="weights to start from"):
            flags.bert_config(config)
    with pytest.raises(UserError, match="--norm"):
        dataclasses.replace(tiny_config, norm="between")


@pytest.mark.parametrize(
    ("size", "shape", "parameters"),
    [
        ("modernbert-base", (22, 768, 12, 1152), 149.0e6),  # Warner et al. 2024: 149M and 395M
        ("modernbert-large", (28, 1024, 16, 2624), 395.0e6),
        ("mosaicbert-base", (12, 768, 12, 3072), 137.0e6),  # Portes et al. 2023: 137M
    ],
)
def test_presets_of_other_encoders_have_the_published_sizes(size, shape, parameters):
    config = ModelFlags(model_size=size).bert_config(vocab_size=50368 if "modern" in size else 30528)
    found = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert found == shape
    pooler = (config.hidden_size + 1) * config.hidden_size + 2 * (config.hidden_size + 1)
    assert num_parameters(config) - pooler == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"position_embeddings": "rotary", "hidden_size_per_head": 5}, "rotary needs an even head size, not 5"),
        ({"first_norm": False}, "--first_norm False needs --norm pre"),
        ({"global_attention_every": 2}, "--global_attention_every needs --attention_window"),
        ({"attention_window": 1}, "--attention_window must be 0 or from 2"),
        ({"rope_theta": float("nan")}, "--rope_theta must be above 0"),
        ({"local_rope_theta": -1.0}, "--local_rope_theta must be at least 0"),
    ],
)
def test_impossible_variants_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        ModelFlags(**flags).bert_config()


def test_windows_that_change_nothing_or_leave_one_global_layer_cause_a_warning(capsys):
    ModelFlags(attention_window=2000).bert_config()
    assert "--attention_window 2000 is wider than the 512 positions" in capsys.readouterr().err
    ModelFlags(num_hidden_layers=3, attention_window=16).bert_config()
    assert "leaves only the first of 3 layers global" in capsys.readouterr().err
    ModelFlags(num_hidden_layers=4, attention_window=16).bert_config()
    assert not capsys.readouterr().err


def test_flags_of_a_preset_must_match_the_weights():
    base = ModelFlags(model_size="modernbert-tiny", activation="silu").bert_config()
    assert ModelFlags(activation="silu", feed_forward="gated").bert_config(base) == base
    with pytest.raises(UserError, match="--activation asks for hidden_act relu, but the weights"):
        ModelFlags(activation="relu").bert_config(base)
    with pytest.raises(UserError, match="--model_size mosaicbert-tiny asks for"):
        ModelFlags(model_size="mosaicbert-tiny").bert_config(base)
