"""Flags of run_infer.py: contradictions, limits, and sizes of models without a configuration."""

import pytest

from configs.cli import parse
from configs.infer import RETIRED, InferConfig
from utils.errors import UserError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--text a --input_path b", "cannot be combined"),
        ("--question a", "must be used together"),
        ("--text_pair a", "needs exactly one --text"),
        ("--text a b --text_pair c", "needs exactly one --text"),
        ("--top_k 0", "--top_k must be at least 1"),
        ("--doc_overlap -1", "--doc_overlap must be at least 0"),
        ("--hidden_size 0", "--hidden_size must be at least 1"),
        ("--batch_size 1000000", "--batch_size must be at most"),
        ("--num_threads 100000", "--num_threads must be at most"),
        ("--task translate", "translate"),
        ("--model-pat x", "Did you mean --model-path"),
    ],
)
def test_wrong_flags_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        parse(InferConfig, ["--model_path", "m", *flags.split()])


def test_a_model_is_required():
    with pytest.raises(UserError, match="--model_path is missing"):
        parse(InferConfig, ["--text", "a"])


def test_only_given_sizes_are_passed_on():
    config = parse(InferConfig, "--model_path m -a 5 --vocab_size 37 -s 7".split())
    assert config.sizes.given() == {"num_attention_heads": 5, "vocab_size": 37}
    assert config.speed.seq_length == 7


def test_dropout_flags_have_no_effect(capsys):
    parse(InferConfig, ["--model_path", "m", "--hidden_dropout_prob", "0.1"], retired=RETIRED)
    assert "inference uses no dropout" in capsys.readouterr().err
