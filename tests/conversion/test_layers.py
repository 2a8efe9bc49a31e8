"""A shallower model has the layers that were named, and nothing else changes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.cli import parse
from configs.convert import ConvertConfig
from conversion import read_checkpoint
from conversion.layers import keep_layers
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/fixtures/huggingface/pretraining"


def test_layers_are_kept_in_order_and_numbered_again():
    whole = read_checkpoint(MODEL)
    count = whole.config.num_hidden_layers
    assert count >= 2
    shallow = keep_layers(whole, [count - 1])
    assert shallow.config.num_hidden_layers == 1 and shallow.settings["num_hidden_layers"] == 1
    for name, array in shallow.state.items():
        origin = name.replace("encoder.layer.0.", f"encoder.layer.{count - 1}.")
        np.testing.assert_array_equal(array, whole.state[origin], err_msg=name)
    outside = {name for name in whole.state if "encoder.layer." not in name}
    assert outside < set(shallow.state)
    assert len(keep_layers(whole, range(count)).state) == len(whole.state)


def test_the_command_writes_the_shallower_model(tmp_path):
    words = ["--input", str(MODEL), "--output", str(tmp_path / "student"), "--keep_layers", "1"]
    result = subprocess.run([sys.executable, "convert_checkpoint.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert read_checkpoint(tmp_path / "student").config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("0,x", "numbers and commas, such as 0,2,4, not 0,x"),
        ("", "numbers and commas"),
        ("2,0", "in rising order, not 2,0"),
        ("1,1", "each layer once"),
    ],
)
def test_wrong_numbers_are_named(layers, message):
    with pytest.raises(UserError, match=message):
        parse(ConvertConfig, ["--input", "a", "--output", "b", "--keep_layers", layers])


def test_a_layer_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="--keep_layers 70 is not a layer of the model, which has 0 to"):
        keep_layers(read_checkpoint(MODEL), [0, 70])
