"""Suggestions are names that the user probably meant, or none."""

import pytest

from configs.cli import parse
from configs.glue import GlueConfig
from configs.infer import InferConfig
from configs.pretraining import PretrainingConfig
from configs.spelling import nearest
from utils.errors import UserError

KNOWN = ["mode", "lr", "val_batch_size", "train_batch_size", "total_steps", "epochs", "learning_rate", "e"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("epoch", "epochs"),
        ("train_batch", "train_batch_size"),
        ("train-batch-sise", "train_batch_size"),
        ("leraning_rate", "learning_rate"),
        ("mdoe", "mode"),
        ("lrr", "lr"),
        ("batch_size", None),
        ("save_total_limit", None),
        ("frequency", None),
        ("x", None),
    ],
)
def test_only_near_spellings_are_suggested(word, expected):
    assert nearest(word, KNOWN) == expected


@pytest.mark.parametrize(
    ("config_class", "word", "hint"),
    [
        (PretrainingConfig, "--batch_size", r"Did you mean --batch_size_per_device\?"),
        (PretrainingConfig, "--max_step", r"Did you mean --max_steps\?"),
        (PretrainingConfig, "--train-batch-siz", r"Did you mean --train-batch-size\?"),
        (InferConfig, "--model", r"Did you mean --model_path\?"),
        (GlueConfig, "--seed_count", "--help lists all flags"),
    ],
)
def test_unknown_flags(config_class, word, hint):
    with pytest.raises(UserError, match=f"^{word} is not a flag here. {hint}"):
        parse(config_class, [word, "3"])
