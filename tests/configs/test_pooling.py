"""sentence-transformers' files: read back as written, and refused in one sentence."""

import json

import pytest

from configs.pooling import Pooling
from utils.errors import UserError


def write(pooling, directory):
    (directory / "1_Pooling").mkdir()
    for name, content in pooling.files(7).items():
        (directory / name).write_bytes(content)


@pytest.mark.parametrize("kind", ["cls", "mean", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_written_is_read(kind, normalize, tmp_path):
    pooling = Pooling(kind, normalize, 37)
    write(pooling, tmp_path)
    assert Pooling.read(tmp_path) == pooling


def test_other_directories_have_no_pooling(tmp_path):
    assert Pooling.read(tmp_path) is None


def test_other_modules_and_poolings_are_refused(tmp_path, capsys):
    write(Pooling(), tmp_path)
    file = tmp_path / "1_Pooling" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "pooling_mode_lasttoken": True}))
    with pytest.raises(UserError, match="pooling_mode_mean_tokens, pooling_mode_lasttoken"):
        Pooling.read(tmp_path)
    assert Pooling.find(tmp_path) is None
    assert "lasttoken" in capsys.readouterr().err
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.Dense"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="module Dense"):
        Pooling.read(tmp_path)


@pytest.mark.parametrize("content", ["[", "7", "[{}]", '[{"type": "a.Pooling", "path": "../x"}]', '[{"type": 3}]'])
def test_damaged_lists_of_modules_are_refused(content, tmp_path):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UserError, match="not a list of modules"):
        Pooling.read(tmp_path)
