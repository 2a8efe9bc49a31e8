"""Names of hub models, with the hub's client replaced."""

import json
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.numpy import save_file

from conversion import read_checkpoint
from conversion.hub import local_directory
from conversion.tokenizer_files import read_vocabulary
from tests.conversion.samples import assert_same_state, model_directory, model_state
from utils.errors import UserError


def test_a_download_has_shards_and_the_tokenizer(tmp_path, monkeypatch, state, config):
    names = sorted(state)
    hub = tmp_path / "hub"
    hub.mkdir()
    files = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, hub / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub / "config.json").write_text(json.dumps(config))
    for name, content in read_vocabulary(model_directory("pretraining")).files(53).items():
        (hub / name).write_bytes(content)
    (hub / "vocab.txt").unlink()
    (hub / "flax_model.msgpack").touch()

    def snapshot_download(name, allow_patterns, **options):
        assert name == "owner/name"
        for file in hub.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                (tmp_path / "cache").mkdir(exist_ok=True)
                (tmp_path / "cache" / file.name).write_bytes(file.read_bytes())
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    checkpoint = read_checkpoint("hf://owner/name")
    assert_same_state(checkpoint.state, model_state())
    assert checkpoint.vocab_file == tmp_path / "cache" / "tokenizer.json"
    assert read_vocabulary(checkpoint.vocab_file).ids == read_vocabulary(model_directory("pretraining")).ids
    assert not (tmp_path / "cache" / "flax_model.msgpack").exists()


def test_paths_are_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bert-base-uncased").mkdir()
    assert local_directory("bert-base-uncased") == Path("bert-base-uncased")
    assert local_directory("runs/first") == Path("runs/first")


def test_a_hub_that_fails_is_one_sentence(monkeypatch):
    def fail(*words, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"bert-base-uncased is not a path, .* \(no route\)\.$"):
        local_directory("bert-base-uncased")
