"""Names of hub models, with the hub's client replaced."""

import json
import os
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.numpy import save_file

from configs.pooling import Pooling
from conversion import read_checkpoint
from conversion.hub import local_directory
from conversion.tokenizer_files import read_vocabulary
from tests.conversion.samples import assert_same_state, model_directory, model_state
from utils.errors import UserError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The directory of a hub model, whose client copies the files that it is asked for into `cache`."""
    directory, cache = tmp_path / "hub", tmp_path / "cache"
    directory.mkdir()

    def snapshot_download(name, allow_patterns, **options):
        assert name == "owner/name"
        for file in (path for path in directory.rglob("*") if path.is_file()):
            own = file.relative_to(directory)
            if any(fnmatch(str(own), pattern) for pattern in allow_patterns):
                (cache / own).parent.mkdir(parents=True, exist_ok=True)
                (cache / own).write_bytes(file.read_bytes())
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return directory


def test_a_download_has_shards_and_the_tokenizer(tmp_path, hub, state, config):
    names = sorted(state)
    files = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, hub / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub / "config.json").write_text(json.dumps(config))
    for name, content in read_vocabulary(model_directory("pretraining")).files(53).items():
        (hub / name).write_bytes(content)
    (hub / "vocab.txt").unlink()
    for name in ("flax_model.msgpack", "pytorch_model.bin", "model.onnx"):
        (hub / name).touch()
    checkpoint = read_checkpoint("hf://owner/name")
    assert_same_state(checkpoint.state, model_state())
    assert checkpoint.vocab_file == tmp_path / "cache" / "tokenizer.json"
    assert read_vocabulary(checkpoint.vocab_file).ids == read_vocabulary(model_directory("pretraining")).ids
    assert not {"flax_model.msgpack", "pytorch_model.bin", "model.onnx"} & set(os.listdir(tmp_path / "cache"))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "flax_model.msgpack", "model.onnx", "onnx/model.onnx"])
def test_the_first_format_that_a_model_has_is_downloaded(tmp_path, hub, file):
    pooling = Pooling("cls", normalize=True)
    others = ("onnx/model_quantized.onnx", "tf_model.h5", "config.json", *pooling.files(7))
    for name in (file, *others):
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).touch()
    for name, content in pooling.files(7).items():
        (hub / name).write_bytes(content)
    found = local_directory("hf://owner/name")
    assert {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()} == {file, *others[2:]}
    assert Pooling.read(found) == pooling


def test_paths_are_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bert-base-uncased").mkdir()
    assert local_directory("bert-base-uncased") == Path("bert-base-uncased")
    assert local_directory("runs/first") == Path("runs/first")


def test_a_failed_download_gives_one_sentence(monkeypatch):
    def fail(*words, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"bert-base-uncased is not a path, .* \(no route\)\.$"):
        local_directory("bert-base-uncased")
