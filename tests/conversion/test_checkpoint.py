"""Conversion between every pair of formats, the report, and tensors that contradict the configuration."""

import dataclasses
import importlib.util
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import convert_checkpoint
from configs.model import BertConfig
from conversion import TARGETS, detect, load_any, read_checkpoint, write_checkpoint
from conversion.names import rows, to_scheme
from conversion.tokenizer_files import TOKENIZER_FILES
from tests.conversion.samples import (
    MODELS,
    assert_same_state,
    google_variables,
    lazy_variables,
    model_config,
    model_directory,
    model_state,
)
from utils.errors import UserError


@pytest.mark.parametrize("name", MODELS)
def test_names_follow_the_rules(name):
    state = model_state(name)
    assert_same_state(to_scheme(state, "tf"), google_variables(state))
    expected = lazy_variables(state)
    if name == "classification":  # TensorFlow's head has no scope; lazy training gave it one
        for part in ("output_weights", "output_bias"):
            expected[f"classification-{part}"] = expected.pop(part)
    assert_same_state(to_scheme(state, "lazy"), expected)


@pytest.mark.parametrize("name", MODELS)
def test_every_pair_of_formats_is_bit_exact(tmp_path, name):
    needed = {"tf": "tensorflow", "onnx": "onnx"}
    targets = [target for target in TARGETS if target not in needed or importlib.util.find_spec(needed[target])]
    expected = model_state(name)
    expected["bert.encoder.layer.1.output.dense.bias"][:2] = -0.0, 1e-42  # equal to 0.0, and subnormal
    source = tmp_path / "source"
    source.mkdir()
    save_file(expected, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(model_config(name)))
    (source / "vocab.txt").write_bytes((model_directory(name) / "vocab.txt").read_bytes())
    first = read_checkpoint(source)
    for target in targets:
        write_checkpoint(first, tmp_path / target, target)
        assert detect(tmp_path / target) == target
    for source_format, target in itertools.product(targets, targets):
        checkpoint = read_checkpoint(tmp_path / source_format, trust=True)
        path = tmp_path / f"{source_format}-{target}"
        write_checkpoint(checkpoint, path, target)
        back = read_checkpoint(path, trust=True)
        assert_same_state(back.state, expected)
        assert back.config == first.config
        assert back.architecture == model_config(name)["architectures"][0]
        assert back.settings.get("id2label") == first.settings.get("id2label")
        assert (path / "vocab.txt").read_bytes() == (model_directory(name) / "vocab.txt").read_bytes()


def write_model(directory, state, config=None):
    directory.mkdir(exist_ok=True)
    save_file(state, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_older_spellings(tmp_path, state, config):
    renamed = {}
    for name, array in state.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed["module." + name.replace("cls.predictions.bias", "cls.predictions.output_bias")] = array
    renamed["module.cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    renamed["module.cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    renamed["module.bert.embeddings.position_ids"] = np.arange(53)[None]
    checkpoint = read_checkpoint(write_model(tmp_path / "m", renamed, config))
    assert_same_state(checkpoint.state, state)
    assert len(checkpoint.report.left_out) == 3


def test_a_bare_encoder_gets_its_prefix(tmp_path, state, config):
    encoder = {name.removeprefix("bert."): array for name, array in state.items() if name.startswith("bert.")}
    checkpoint = read_checkpoint(write_model(tmp_path / "m", encoder, config))
    assert_same_state(checkpoint.state, {"bert." + name: array for name, array in encoder.items()})
    assert checkpoint.architecture == "BertModel"


def test_squad_head_of_the_earlier_scripts(tmp_path):
    state = model_state("question_answering")
    renamed = {name.replace("qa_outputs", "cls_squad"): array for name, array in state.items()}
    assert_same_state(load_any(write_model(tmp_path / "m", renamed, model_config("question_answering")))[1], state)


def test_half_precision_is_widened(tmp_path, state, config):
    halves = {name: array.astype(np.float16) for name, array in state.items()}
    found = load_any(write_model(tmp_path / "m", halves, config))[1]
    assert_same_state(found, {name: array.astype(np.float32) for name, array in halves.items()})


def test_an_untied_decoder_is_a_mismatch(tmp_path, state, config):
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"] + 1
    with pytest.raises(UserError, match="is not tied"):
        read_checkpoint(write_model(tmp_path / "m", state, config))


def test_a_configuration_that_contradicts_the_tensors(tmp_path, state, config):
    directory = write_model(tmp_path / "m", state, config | {"vocab_size": 101})
    with pytest.raises(UserError, match=r"word_embeddings.weight has shape \[97, 15\].*needs \[101, 15\].*1 more"):
        read_checkpoint(directory)
    checkpoint = read_checkpoint(directory, allow_partial=True)
    assert "bert.embeddings.word_embeddings.weight" not in checkpoint.state
    assert len(checkpoint.report.mismatched) == 2
    assert "2 mismatched" in str(checkpoint.report)


def test_missing_and_unexpected_tensors(tmp_path, state, config):
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["some.other.tensor"] = np.zeros(3, np.float32)
    directory = write_model(tmp_path / "m", state, config)
    with pytest.raises(UserError, match=r"layer\.1\.output\.dense\.bias is missing.*--allow_partial"):
        read_checkpoint(directory)
    report = read_checkpoint(directory, allow_partial=True).report
    assert report.missing == ["bert.encoder.layer.1.output.dense.bias"]
    assert report.unexpected == ["some.other.tensor"]
    assert len(report.mapped) == len(state) - 1


def test_fewer_and_more_layers_than_the_configuration(tmp_path, state, config):
    with pytest.raises(UserError, match=r"layer\.3.* is missing"):
        read_checkpoint(write_model(tmp_path / "m", state, config | {"num_hidden_layers": 4}))
    with pytest.raises(UserError, match=r"layer\.2.* is beyond the configuration's 2 layers"):
        read_checkpoint(write_model(tmp_path / "m", state, config | {"num_hidden_layers": 2}))
    checkpoint = read_checkpoint(tmp_path / "m", allow_partial=True)
    assert len(checkpoint.report.mismatched) == 16
    assert not any("layer.2" in name for name in checkpoint.state)


def test_sizes_that_the_user_gives_must_agree(tmp_path, state, config):
    directory = write_model(tmp_path / "m", state, config)
    assert_same_state(read_checkpoint(directory, sizes={"hidden_size": 15, "num_attention_heads": 3}).state, state)
    with pytest.raises(UserError, match=r"--num_attention_heads 5 contradicts .* says 3"):
        read_checkpoint(directory, sizes={"num_attention_heads": 5})
    (directory / "config.json").unlink()
    assert read_checkpoint(directory, sizes={"hidden_size_per_head": 5}).config.num_attention_heads == 3
    with pytest.raises(UserError, match=r"configuration needs \[101"):
        read_checkpoint(directory, sizes={"num_attention_heads": 3, "vocab_size": 101})


def test_sizes_come_from_the_tensors_without_a_configuration(tmp_path, state, config):
    with pytest.raises(UserError, match="number of attention heads"):
        read_checkpoint(write_model(tmp_path / "m", state))
    found, _ = load_any(tmp_path / "m", config={"num_attention_heads": 3})
    sizes = {key: config[key] for key in dataclasses.asdict(found) if key in config and "dropout" not in key}
    assert sizes.items() <= dataclasses.asdict(found).items()


def test_a_hidden_size_of_whole_heads_needs_no_configuration(tmp_path):
    sizes = {"V": 11, "L": 7, "T": 2, "E": 128, "H": 128, "I": 5, "C": 3}
    held = [row for row in rows(1) if BertConfig(final_norm=True).has_parameter(row.name)]
    state = {row.name: np.ones(row.shape(sizes), np.float32) for row in held}
    found, _ = load_any(write_model(tmp_path / "m", state))
    assert (found.num_attention_heads, found.intermediate_size, found.num_labels) == (2, 5, 3)


def test_a_run_stands_for_its_latest_checkpoint(tmp_path, state, config):
    write_model(tmp_path / "checkpoint-7", state, config)
    (tmp_path / "latest").write_text("checkpoint-7\n")
    assert_same_state(load_any(tmp_path)[1], state)
    for lost in (b"../elsewhere\n", b"\xff\x00", b""):  # it still is the newest
        (tmp_path / "latest").write_bytes(lost)
        assert_same_state(load_any(tmp_path)[1], state)


def test_an_unknown_format(tmp_path):
    (tmp_path / "readme").touch()
    with pytest.raises(UserError, match=r"expected model\.safetensors.*pickled_data.*snapshot_done.*ckpt\.index"):
        load_any(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_any(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '{"hidden_size": "15"}', '{"num_attention_heads": 4}'])
def test_a_damaged_configuration(tmp_path, state, content):
    directory = write_model(tmp_path / "m", state)
    (directory / "config.json").write_text(content)
    with pytest.raises(UserError):
        load_any(directory)


def test_an_encoder_that_is_not_bert(tmp_path, state, config):
    with pytest.raises(UserError, match="'relative_key' position embeddings"):
        load_any(write_model(tmp_path / "m", state, config | {"position_embedding_type": "relative_key"}))
    with pytest.raises(UserError, match="mish"):
        load_any(write_model(tmp_path / "m", state, config | {"hidden_act": "mish"}))


def test_no_encoder(tmp_path):
    with pytest.raises(UserError, match="no BERT encoder"):
        load_any(write_model(tmp_path / "m", {"weight": np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match="layer 999999"):
        load_any(write_model(tmp_path / "m", {"bert.encoder.layer.999999.output.dense.bias": np.zeros(3, np.float32)}))


def test_a_directory_in_use_is_kept(tmp_path):
    checkpoint = read_checkpoint(model_directory("pretraining"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(UserError, match="not empty"):
        write_checkpoint(checkpoint, tmp_path / "out")
    with pytest.raises(UserError, match="contains precious, which no conversion writes"):
        write_checkpoint(checkpoint, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "precious").unlink()
    for target in ("lazy", "oneflow", "hf"):  # each replaces the one before
        write_checkpoint(checkpoint, tmp_path / "out", target, overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        *TOKENIZER_FILES,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_holds_the_input_is_refused(tmp_path):
    shutil.copytree(model_directory("pretraining"), tmp_path / "D" / "in")
    before = sorted(path.read_bytes() for path in (tmp_path / "D" / "in").iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "D")
    for source in (tmp_path / "D" / "in", tmp_path / "D" / "in" / "model.safetensors"):
        checkpoint = read_checkpoint(source)
        for output in (tmp_path / "D", tmp_path / "D" / "in", tmp_path / "link"):
            with pytest.raises(UserError, match="contains the input"):
                write_checkpoint(checkpoint, output, overwrite=True)
    assert sorted(path.read_bytes() for path in (tmp_path / "D" / "in").iterdir()) == before


def test_an_output_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    checkpoint = read_checkpoint(model_directory("pretraining"))
    write_checkpoint(checkpoint, tmp_path / "elsewhere")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    write_checkpoint(checkpoint, tmp_path / "out", "lazy", overwrite=True)
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "out" / "snapshot_done").exists()
    assert (tmp_path / "elsewhere" / "model.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "out"}


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    checkpoint = read_checkpoint(model_directory("pretraining"))
    monkeypatch.setattr("conversion.huggingface.write", lambda state, directory: save_file(
        {name: array + 1 for name, array in state.items()}, directory / "model.safetensors"))  # fmt: skip
    with pytest.raises(UserError, match="differs from the input when read back"):
        write_checkpoint(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, arguments)])
    convert_checkpoint.main()


def test_the_command_reports(tmp_path, monkeypatch, capsys):
    source = model_directory("question_answering")
    run_command(monkeypatch, "--from", "hf", "--to", "lazy", "--input", source, "--output", tmp_path / "lazy")
    assert "BertForQuestionAnswering in format hf" in (out := capsys.readouterr().out)
    assert "39 tensors mapped" in out and "equal bit for bit" in out
    with pytest.raises(UserError, match="--input is missing"):
        run_command(monkeypatch, "--output", tmp_path / "x")
    (tmp_path / "wrong.json").write_text(json.dumps(model_config("question_answering") | {"intermediate_size": 31}))
    with pytest.raises(UserError, match=r"configuration needs \[.*31"):
        run_command(
            monkeypatch, "--input", tmp_path / "lazy", "--output", tmp_path / "x", "--config", tmp_path / "wrong.json"
        )
    assert not (tmp_path / "x").exists()
