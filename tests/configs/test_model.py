"""Shapes that no BERT has are refused, whether flags or a config.json ask for them."""

import json

import pytest

from configs.cli import parse
from configs.model import BertConfig, ModelFlags
from configs.prepare import VocabConfig
from configs.pretraining import PretrainingConfig
from utils.errors import UserError


@pytest.mark.parametrize("name", ["num_hidden_layers", "intermediate_size", "max_position_embeddings", "vocab_size",
                                  "hidden_size_per_head", "num_attention_heads", "type_vocab_size"])  # fmt: skip
@pytest.mark.parametrize("value", [0, 10**9])
def test_sizes_have_limits(name, value):
    with pytest.raises(UserError, match=rf"^--{name} must be at (least 1|most \d+), not {value}"):
        parse(PretrainingConfig, [f"--{name}={value}"])


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_damaged_config_json_is_refused(tmp_path, name):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: 10**9}))
    with pytest.raises(UserError, match=f"{name} must be at most"):
        BertConfig.from_json(file)


def test_the_size_of_a_new_vocabulary_is_limited():
    with pytest.raises(UserError, match="--vocab_size must be at most 10000000"):
        parse(VocabConfig, ["--input_file", "x", "--vocab_file", "v.txt", "--vocab_size", "100000000000"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"model_size": "base"},
            "--model_size base asks for num_hidden_layers 12, but the weights to start from have 24",
        ),
        ({"model_size": "base", "num_hidden_layers": 24}, "--model_size base asks for hidden_size 768"),
        ({"model_size": "large", "num_hidden_layers": 7}, "--num_hidden_layers asks for num_hidden_layers 7"),
        ({"hidden_size_per_head": 5}, "--hidden_size_per_head asks for hidden_size 80"),
        ({"model_size": "bert-minimal", "num_hidden_layers": 24}, "--model_size bert-minimal asks for hidden_size 768"),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_blamed_on_the_flag_that_asks_for_it(flags, message):
    large = ModelFlags().bert_config()
    with pytest.raises(UserError, match=message):
        ModelFlags(**flags).bert_config(large)
    assert ModelFlags(model_size="large").bert_config(large) == large
