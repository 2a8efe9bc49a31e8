"""Model directories: what is written, read back and refused."""

import dataclasses
import errno
import json

import numpy as np
import oneflow as flow
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conversion import read_checkpoint
from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    pretrained,
)
from modeling.pretrained import read_weights, write_weights
from utils.errors import UserError

VARIANTS = [
    {},
    {"norm": "pre"},
    {"embedding_norm": False, "final_norm": True},
    {"linear_bias": False},
    {"position_embeddings": "sinusoidal"},
]


def assert_same_weights(one, other):
    arrays = other.to_arrays()
    assert set(arrays) == set(one.to_arrays())
    for name, array in one.to_arrays().items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification])
def test_a_saved_model_loads_with_its_configuration(kind, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, num_labels=5)
    model = kind(config, seed=3)
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert_same_weights(model, loaded)
    expected = config if kind is BertForSequenceClassification else dataclasses.replace(config, num_labels=2)
    assert loaded.config == expected
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind.__name__]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant) or "bert")
def test_every_variant_is_saved_and_read_back(tiny_config, tmp_path, variant):
    config = dataclasses.replace(tiny_config, **variant)
    model = BertForPreTraining(config, seed=4)
    model.save_pretrained(tmp_path)
    model_type = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert model_type == ("bert-variant" if variant else "bert")
    assert read_checkpoint(tmp_path).config == config
    loaded = BertForPreTraining.from_pretrained(tmp_path)
    assert loaded.config == config
    assert_same_weights(model, loaded)


def test_a_head_without_weights_is_initialized_randomly_with_a_warning(tiny_config, tmp_path, capsys):
    source = BertForPreTraining(tiny_config, seed=3)
    source.save_pretrained(tmp_path)
    model = BertForQuestionAnswering.from_pretrained(tmp_path)
    assert f"{tmp_path} contains no qa_outputs: it is initialized randomly" in capsys.readouterr().err
    name = "bert.encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(model.to_arrays()[name], source.to_arrays()[name])
    missing = BertForQuestionAnswering(tiny_config).load_arrays(source.to_arrays(), source="here")
    assert missing == ["qa_outputs.bias", "qa_outputs.weight"]


def test_an_encoder_loads_from_a_directory_with_heads(tiny_config, tmp_path, capsys):
    source = BertForPreTraining(tiny_config, seed=3)
    source.save_pretrained(tmp_path)
    assert_same_weights(source.bert, BertModel.from_pretrained(tmp_path))
    assert capsys.readouterr().err == ""


def test_tied_tensors_are_ignored(tiny_config, tmp_path):
    model = BertForPreTraining(tiny_config, seed=3)
    arrays = model.to_arrays()
    tied = {"cls.predictions.decoder.weight": np.ones((37, 15), np.float32)}
    model.save_pretrained(tmp_path, arrays | tied)
    assert set(load_file(tmp_path / "model.safetensors")) == set(arrays) | set(tied)
    assert_same_weights(model, BertForPreTraining.from_pretrained(tmp_path))


def test_a_decoder_of_its_own_is_saved_and_loaded(tiny_config, tmp_path):
    model = BertForPreTraining(dataclasses.replace(tiny_config, tied_decoder=False), seed=3)
    model.save_pretrained(tmp_path)
    assert_same_weights(model, BertForPreTraining.from_pretrained(tmp_path))


def test_a_configuration_may_replace_the_directorys(tiny_config, tmp_path):
    BertModel(tiny_config).save_pretrained(tmp_path)
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.4)
    assert BertModel.from_pretrained(tmp_path, config).config.hidden_dropout_prob == 0.4


def test_weights_that_do_not_fit_the_configuration_are_refused(tiny_config, tmp_path):
    BertForPreTraining(tiny_config).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 38}))
    with pytest.raises(UserError, match=r"word_embeddings\.weight has shape \[37, 15\], but .* needs \[38, 15\]"):
        BertForPreTraining.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"lacks 16 encoder tensors, first bert\.encoder\.layer\.2"):
        BertForPreTraining.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        BertForPreTraining.from_pretrained(tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        BertModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        read_weights(tmp_path / "model.safetensors")
    save_file({"x": np.ones((7, 5), np.float32)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for damaged in (content[:-3], b"", b"\xff" * 100):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged is not a complete safetensors file"):
            read_weights(tmp_path / "damaged")


def test_a_full_disk_raises_oserror(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(OSError, match="model") as raised:
        write_weights(tmp_path / "model.safetensors", {})
    assert raised.value.errno == errno.ENOSPC


def test_checksums_differ_when_one_weight_does(tiny_config):
    model, same = BertModel(tiny_config, seed=1), BertModel(tiny_config, seed=1)
    assert model.checksum() == same.checksum()
    weights = same.pooler.dense.bias.numpy()
    weights[3] = 1
    same.pooler.dense.bias.data.copy_(flow.tensor(weights))
    assert model.checksum() != same.checksum()


def test_activation_checkpointing_changes_no_loss_or_gradient(tiny_config):
    ids = flow.tensor(np.random.default_rng(0).integers(0, 37, (3, 7)))
    results = []
    for checkpointing in (False, True):
        model = BertForPreTraining(tiny_config, seed=2).train()
        if checkpointing:
            model.checkpoint_activations()
            assert model.bert.encoder.checkpoints_activations
        loss = model(ids, masked_lm_ids=ids)["total_loss"]
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients))
    (loss, gradients), (expected_loss, expected) = results
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
