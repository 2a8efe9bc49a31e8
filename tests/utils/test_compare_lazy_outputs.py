"""Lazy checkpoints load into modules, and compare with converted checkpoints."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conversion import read_checkpoint, write_checkpoint
from modeling import BertForPreTraining
from utils.compare_lazy_outputs import CompareConfig, largest_differences, load_params_from_lazy
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "huggingface"


@pytest.fixture
def lazy(tmp_path):
    write_checkpoint(read_checkpoint(FIXTURES / "pretraining"), tmp_path / "lazy", "lazy")
    return tmp_path / "lazy"


@pytest.mark.parametrize("target", ["module", "state dict"])
@pytest.mark.parametrize("with_config", [True, False])
def test_all_parameters_are_loaded_including_heads(lazy, target, with_config):
    if not with_config:
        (lazy / "bert_config.json").unlink()
    expected = read_checkpoint(FIXTURES / "pretraining")
    model = BertForPreTraining(expected.config)
    load_params_from_lazy(model if target == "module" else model.state_dict(), lazy)
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(array, expected.state[name], err_msg=name)


def test_a_missing_parameter_is_refused(lazy):
    shutil.rmtree(lazy / "cls-seq_relationship-output_bias")
    model = BertForPreTraining(read_checkpoint(FIXTURES / "pretraining").config)
    with pytest.raises(UserError, match=r"cls\.seq_relationship\.bias is missing"):
        load_params_from_lazy(model, lazy)


def test_differences_are_found(lazy):
    config = CompareConfig(lazy_path=str(lazy), model_path=str(FIXTURES / "pretraining"))
    assert set(largest_differences(config).values()) == {0.0}
    bias = np.fromfile(lazy / "cls-predictions-output_bias" / "out", "<f4")
    (bias + 0.5).tofile(lazy / "cls-predictions-output_bias" / "out")
    found = largest_differences(config)
    assert found["prediction_scores"] == pytest.approx(0.5, abs=1e-5)
    assert found["sequence_output"] == found["seq_relationship_score"] == 0


def test_different_models_and_missing_flags_are_refused(lazy):
    for part in ("weights", "bias"):
        shutil.rmtree(lazy / f"cls-seq_relationship-output_{part}")
    with pytest.raises(UserError, match="not the same model"):
        largest_differences(CompareConfig(lazy_path=str(lazy), model_path=str(FIXTURES / "pretraining")))
    with pytest.raises(UserError, match="--model_path is missing"):
        CompareConfig(lazy_path=str(lazy))


def test_the_command_runs_as_a_script(lazy):
    command = [
        sys.executable,
        "utils/compare_lazy_outputs.py",
        "--lazy_path",
        lazy,
        "--model_path",
        FIXTURES / "pretraining",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "prediction_scores        0\n" in done.stdout
