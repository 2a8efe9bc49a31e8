"""The search space is checked against the flags of the command before anything runs."""

import json

import pytest

from sweeps.command import Command
from sweeps.space import Choice, Range, read_space
from utils.errors import UserError

COMMAND = Command.parse("run_glue.py --task_name rte --data_dir glue")


def write(tmp_path, content):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_values_and_ranges_are_read(tmp_path):
    content = {
        "--learning_rate": {"low": 1e-5, "high": 1, "log": True},
        "batch-size": {"low": 8, "high": 32, "step": 8},
        "--lr_schedule": ["linear", "cosine"],
        "--freeze_embeddings": [True, False],
    }
    assert read_space(write(tmp_path, content), COMMAND) == [
        Range("lr", 1e-5, 1, whole=False, log=True),
        Range("train_batch_size", 8, 32, whole=True, step=8),
        Choice("lr_schedule", ("linear", "cosine")),
        Choice("freeze_embeddings", (True, False)),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "contains no flags"),
        ({"--lernrate": [1]}, "--lernrate is not a flag here"),
        ({"--lr": [1e-5], "--learning_rate": [1e-4]}, "is listed twice"),
        ({"--lr": 1e-5}, "must be a list of values or"),
        ({"--lr": {"low": 1, "high": 2, "base": 10}}, "must be a list of values or"),
        ({"--lr": []}, "has 0 values"),
        ({"--lr": [[1]]}, r"lists \[1\]"),
        ({"--lr": [1e-5, 1e-5]}, "lists a value twice"),
        ({"--lr": ["high"]}, "'high' is not a number"),
        ({"--lr": [1e-5, -1]}, "--lr must be at least 0, not -1"),
        ({"--lr": {"low": -1, "high": 1}}, "--lr must be at least 0, not -1"),
        ({"--lr": {"low": 2, "high": 1}}, '"low" must be below "high"'),
        ({"--lr": {"low": 0, "high": 1, "log": True}}, '"log" needs a "low" above 0'),
        ({"--lr": {"low": 1, "high": 2, "log": True, "step": 1}}, "cannot be combined"),
        ({"--lr": {"low": 0, "high": 1, "step": 2}}, '"step" between 0'),
        ({"--batch_size": {"low": 1.5, "high": 2}}, "must be whole numbers"),
        ({"--lr_schedule": {"low": 1, "high": 2}}, "does not take numbers"),
        ({"--freeze_embeddings": {"low": 0, "high": 1}}, "does not take numbers"),
        ({"--lr_schedule": ["linear", "wavy"]}, "must be one of linear"),
    ],
)
def test_a_wrong_space_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_space(write(tmp_path, content), COMMAND)
