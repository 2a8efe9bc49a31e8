"""The memory estimate counts parameters exactly, and stays below what was measured."""

import dataclasses
import subprocess
import sys

import pytest

from configs.memory import (
    activation_bytes,
    available_bytes,
    num_parameters,
    require_address_space,
    require_memory,
    training_bytes,
)
from configs.model import MINIMAL, BertConfig
from modeling import BertForPreTraining
from utils.errors import UserError

ODD = BertConfig(
    vocab_size=37,
    hidden_size=15,
    num_hidden_layers=2,
    num_attention_heads=5,
    intermediate_size=19,
    max_position_embeddings=13,
    type_vocab_size=3,
)


@pytest.mark.parametrize(
    "changes", [{}, {"linear_bias": False}, {"position_embeddings": "sinusoidal", "final_norm": True}, MINIMAL],
    ids=["bert", "no biases", "sinusoids", "bert-minimal"],
)  # fmt: skip
def test_parameters_are_those_of_the_model(changes):
    config = dataclasses.replace(ODD, **changes)
    assert num_parameters(config) == sum(parameter.numel() for parameter in BertForPreTraining(config).parameters())


def test_base_has_the_published_number_of_parameters():
    assert num_parameters(BertConfig()) == 110_106_428  # Hugging Face's BertForPreTraining


# (layers, hidden, rows, seq_length, predictions) → peak of a process on a CPU, in MB, over two steps with AdamW.
@pytest.mark.parametrize(
    ("layers", "hidden", "rows", "seq_length", "predictions", "measured"),
    [
        (2, 128, 8, 128, 20, 617),
        (4, 256, 32, 128, 20, 1421),
        (4, 256, 64, 128, 20, 2170),
        (4, 512, 32, 128, 20, 2030),
        (4, 256, 8, 512, 80, 1182),
    ],
)
def test_the_estimate_is_a_close_lower_bound(layers, hidden, rows, seq_length, predictions, measured):
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    estimate = training_bytes(config, rows, seq_length, predictions) / 2**20
    assert 0.7 * measured < estimate < measured


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    one, seven = (activation_bytes(BertConfig(), rows, 128, 20) for rows in (1, 7))
    assert seven == 7 * one
    assert activation_bytes(BertConfig(), 7, 128, 20, checkpointing=True) < seven / 3


def test_available_memory_is_the_smaller_of_machine_and_container(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    7000 kB\n")
    assert available_bytes(tmp_path, tmp_path) == 7000 << 10
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path, tmp_path) == 7000 << 10
    (tmp_path / "memory.max").write_text("6000\n")
    assert available_bytes(tmp_path, tmp_path) == 5000
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None


def test_a_run_that_does_not_fit_is_refused_with_both_numbers():
    require_memory(10, 11)
    require_memory(10, None)
    with pytest.raises(UserError, match=r"needs about 1,500 GB of memory, but .* leave only 8\.0 GB: lower"):
        require_memory(1_500_000_000_000, 8_000_000_000)


def test_a_limit_on_address_space_that_is_too_low_for_the_framework_is_named(tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3500 << 20,) * 2); from configs import memory\n"
        "assert memory.available_bytes() < 3500 << 20\n"
        "memory.require_address_space()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: `ulimit -v` allows 3.7 GB of address space" in ended.stderr
    require_address_space()
