"""The command: what it writes, and its sentences."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling.pretrained import read_weights, write_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_directory(tmp_path):
    """A run with three checkpoints, the newest of which stores a moving average of one weight."""
    for step in (3, 5, 7):
        directory = tmp_path / f"run/checkpoint-{step}"
        (directory / "training_state").mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        weights = {"a": np.full((2, 3), step, np.float32), "b": np.ones(5, np.float32)}
        write_weights(directory / "model.safetensors", weights)
        write_weights(directory / "training_state/optimizer.safetensors", {"a.ema": np.zeros((2, 3), np.float32)})
    return tmp_path / "run"


def command(*words):
    script = str(ROOT / "utils/average_checkpoints.py")
    result = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_a_model_directory_comes_out(run_directory, tmp_path):
    code, said = command(run_directory, "--last", "2", "--output", tmp_path / "mean")
    assert code == 0 and "the mean of checkpoint-5, checkpoint-7" in said
    assert {path.name for path in (tmp_path / "mean").iterdir()} == {"config.json", "model.safetensors"}
    assert read_weights(tmp_path / "mean/model.safetensors")["a"][0, 0] == 6
    assert command(run_directory, "--ema", "--output", tmp_path / "moving")[0] == 0
    moving = read_weights(tmp_path / "moving/model.safetensors")
    assert moving["a"][0, 0] == 0 and moving["b"][0] == 1


def test_mistakes_are_named(run_directory, tmp_path):
    code, said = command(run_directory, "--last", "4", "--output", tmp_path / "mean")
    assert code == 2 and "has 3 checkpoints, not 4" in said and "Traceback" not in said
    code, said = command(run_directory, "--last", "2", "--output", tmp_path)
    assert code == 2 and "already exists: choose a new directory" in said
