"""The variants of each foreign format, and its damaged and hostile files."""

import contextlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import oneflow as flow
import pytest
from safetensors.numpy import save_file

from conversion import huggingface, load_any, oneflow_save, read_checkpoint
from modeling import BertForPreTraining
from tests.conversion.samples import (
    assert_same_state,
    google_variables,
    lazy_variables,
    model_config,
    model_directory,
    model_state,
    write_lazy,
)
from utils.errors import UserError

ROOT = Path(__file__).parents[2]

# lazy OneFlow


@pytest.mark.parametrize("meta", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("positions", [2, 3])
@pytest.mark.parametrize("name", ["pretraining", "question_answering", "classification"])
def test_lazy_directories(tmp_path, name, positions, meta):
    variables = lazy_variables(model_state(name))
    if positions == 2:
        variables["bert-embeddings-position_embeddings"] = variables["bert-embeddings-position_embeddings"][0]
    write_lazy(tmp_path / "lazy", variables, meta=meta)
    assert_same_state(load_any(tmp_path / "lazy", config=model_config(name))[1], model_state(name))


def test_optimizer_state_is_left_out(tmp_path, state, config):
    variables = lazy_variables(state)
    slots = {f"{name}-{slot}": array * 0 for name, array in variables.items() for slot in "mv"}
    step = {"System-Train-TrainStep-TrainJob": np.zeros(2, np.float32)}
    checkpoint = read_checkpoint(write_lazy(tmp_path / "lazy", variables | slots | step), config=config)
    assert_same_state(checkpoint.state, state)
    assert len(checkpoint.report.left_out) == 2 * len(state) + 1
    assert checkpoint.report.unexpected == []


@pytest.mark.parametrize(
    ("names", "transposed"),
    [(("output-weight", "output-bias"), True), (("output-weight", "output-bias"), False),
     (("output_weights", "output_bias"), False), (("weight", "bias"), False)],
)  # fmt: skip
def test_spellings_of_lazy_heads(tmp_path, state, config, names, transposed):
    for head, name in (("cls-seq_relationship", "pretraining"), ("cls-squad", "question_answering")):
        state = model_state(name)
        variables = lazy_variables(state)
        weight, bias = (variables.pop(key) for key in sorted(variables, reverse=True) if key.startswith(head))
        weight = weight if weight.shape[0] == 2 else weight.T
        variables[f"{head}-{names[0]}"] = weight.T if transposed else weight
        variables[f"{head}-{names[1]}"] = bias
        path = write_lazy(tmp_path / head, variables)
        assert_same_state(load_any(path, config=model_config(name))[1], state)


def test_a_truncated_variable(tmp_path, state, config):
    path = write_lazy(tmp_path / "lazy", lazy_variables(state))
    out = path / "bert-pooler-dense-weight" / "out"
    out.write_bytes(out.read_bytes()[:-4])
    with pytest.raises(
        UserError, match=r"bert-pooler-dense-weight/out contains 224 numbers, but its meta says \[15, 15\]"
    ):
        load_any(path, config=config)
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        load_any(path, config=config)
    (out.parent / "meta").unlink()
    out.write_bytes(bytes(4 * 224))
    with pytest.raises(UserError, match="does not fit"):
        load_any(path, config=config)


@pytest.mark.parametrize(
    "meta", ["", "shape { dim: 15 dim: 15 } data_type: kDouble", "shape { dim: 99999999999 dim: 99999999999 }"]
)
def test_a_meta_that_disagrees(tmp_path, state, config, meta):
    path = write_lazy(tmp_path / "lazy", lazy_variables(state))
    (path / "bert-pooler-dense-weight" / "meta").write_text(meta)
    with pytest.raises(UserError, match="bert-pooler-dense-weight"):
        load_any(path, config=config)


def test_damaged_lazy_directories_never_crash(tmp_path, state, config):
    path = write_lazy(tmp_path / "lazy", lazy_variables(state))
    generator = random.Random(5)
    files = sorted(path.glob("*/*"))
    for _ in range(60):
        file = generator.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged[: generator.randrange(len(damaged))] if generator.random() < 0.5 else damaged)
        try:
            load_any(path, config=config)
        except UserError:
            pass
        finally:
            file.write_bytes(whole)


# safetensors


def test_shards(tmp_path, state, config):
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_state(load_any(tmp_path, config=config)[1], state)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        load_any(tmp_path, config=config)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../secret.bin"}}', 
        "[" * 90_000,
                                   '{"weight_map": {"a": 7}}', '{"weight_map": []}'])  # fmt: skip
def test_a_damaged_index(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match="not an index of shards"):
        load_any(tmp_path)


def safetensors_file(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def test_bfloat16(tmp_path):
    values = np.array([1.0, -2.5, 3e38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"bert.embeddings.x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    found = huggingface.read(safetensors_file(tmp_path / "m.safetensors", header, upper))["bert.embeddings.x"]
    np.testing.assert_allclose(found, values, rtol=1e-2)


def entry(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    "header",
    [entry(shape=[3]), entry(shape=[1 << 62, 4]), entry(data_offsets=[0, 16]), entry(data_offsets=[8, 0]),
     entry(dtype="F8"),
     entry(data_offsets=[-8, 0]), entry() | {"b": entry()["a"]}, 
     entry(dtype="BF16", shape=[1 << 40]), b"{", b"[]", b"\xff" * 9],
)  # fmt: skip
def test_lying_headers(tmp_path, header):
    path = safetensors_file(tmp_path / "model.safetensors", header, bytes(8))
    with pytest.raises(UserError, match="safetensors"):
        load_any(path)


def test_a_header_longer_than_the_file(tmp_path):
    for length in (1 << 63, (1 << 64) - 1, 10**6):
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(UserError, match="not a complete safetensors file"):
            load_any(tmp_path)


def test_damaged_safetensors_never_crash(tmp_path, config):
    whole = (model_directory("pretraining") / "model.safetensors").read_bytes()
    generator = random.Random(3)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[generator.randrange(7000 if generator.random() < 0.9 else len(damaged))] = generator.randrange(256)
        (tmp_path / "model.safetensors").write_bytes(
            damaged[: generator.choice((None, generator.randrange(len(damaged))))]
        )
        with contextlib.suppress(UserError):
            load_any(tmp_path, config=config)


# TensorFlow


def write_tensorflow(prefix, variables):
    tensorflow = pytest.importorskip("tensorflow")
    graph = tensorflow.Graph()
    with graph.as_default(), tensorflow.compat.v1.Session(graph=graph) as session:
        made = [tensorflow.compat.v1.get_variable(name, initializer=array) for name, array in variables.items()]
        session.run(tensorflow.compat.v1.global_variables_initializer())
        tensorflow.compat.v1.train.Saver(made).save(session, str(prefix), write_meta_graph=False)
    return prefix


@pytest.mark.parametrize("name", ["pretraining", "question_answering", "classification"])
def test_checkpoints_of_a_tensorflow_saver(tmp_path, name):
    variables = google_variables(model_state(name))
    slots = {f"{key}/{slot}": array * 0 for key, array in variables.items() for slot in ("adam_m", "adam_v")}
    write_tensorflow(tmp_path / "model.ckpt-1234", variables | slots | {"global_step": np.int64(7)})
    (tmp_path / "bert_config.json").write_text(json.dumps(model_config(name)))
    for path in (tmp_path, tmp_path / "model.ckpt-1234", tmp_path / "model.ckpt-1234.index"):
        checkpoint = read_checkpoint(path)
        assert checkpoint.format == "tf"
        assert_same_state(checkpoint.state, model_state(name))
        assert checkpoint.report.unexpected == []


def test_without_tensorflow(tmp_path, monkeypatch):
    (tmp_path / "bert_model.ckpt.index").touch()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing"):
        load_any(tmp_path)
    (tmp_path / "bert_model.ckpt.data-00000-of-00001").touch()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="make setup EXTRAS=tensorflow"):
        load_any(tmp_path)


def test_damaged_tensorflow_checkpoints_never_crash(tmp_path, state, config):
    prefix = write_tensorflow(tmp_path / "bert_model.ckpt", google_variables(state))
    generator = random.Random(9)
    files = [prefix.with_name("bert_model.ckpt.index"), prefix.with_name("bert_model.ckpt.data-00000-of-00001")]
    for _ in range(40):
        file = generator.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged[: generator.choice((None, generator.randrange(len(damaged))))])
        try:
            load_any(prefix, config=config)
        except UserError:
            pass
        finally:
            file.write_bytes(whole)


# flow.save


def test_flow_save_is_read_only_when_trusted(tmp_path, state, config):
    flow.save({name: flow.tensor(array) for name, array in state.items()}, str(tmp_path / "saved"))
    with pytest.raises(UserError, match="--trust_checkpoint"):
        load_any(tmp_path / "saved", config=config)
    assert_same_state(load_any(tmp_path / "saved", config=config, trust=True)[1], state)


def test_the_command_that_writes_it_prints_none_of_the_frameworks_messages(tmp_path):
    words = ["--input", str(model_directory("pretraining")), "--output", str(tmp_path / "out"), "--to", "oneflow"]
    environment = {name: value for name, value in os.environ.items() if name != "GLOG_minloglevel"}
    done = subprocess.run(
        [sys.executable, "convert_checkpoint.py", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "read back and equal bit for bit" in done.stdout


def test_a_damaged_flow_save(tmp_path, state, config):
    flow.save({name: flow.tensor(array) for name, array in state.items()}, str(tmp_path / "saved"))
    next((tmp_path / "saved").glob("tensor_*/out")).write_bytes(b"short")
    with pytest.raises(UserError, match=r"has 5 bytes, but its meta asks for [\d,]+"):
        load_any(tmp_path / "saved", config=config, trust=True)


def test_flow_save_of_a_training_checkpoint_in_every_type(tmp_path):
    types = (flow.float32, flow.float64, flow.float16, flow.int8, flow.uint8, flow.int32, flow.int64, flow.bool)
    saved = {str(kind): flow.tensor([[1, 0, 3]]).to(kind) for kind in types} | {"none": flow.tensor(2.5)}
    flow.save({"model": saved, "step": 3, "rates": [0.1, 2]}, str(tmp_path / "saved"))
    found = oneflow_save.read(tmp_path / "saved", trust=True)
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == tensor.numpy().dtype and found[name].shape == tensor.shape
        assert found[name].tolist() == tensor.numpy().tolist()


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"protocol_version": 1, "data": {"a": Hostile()}}), "asks for posix.mkdir"),
        (pickle.dumps({"protocol_version": 1, "data": [1]}), "contains no state dict"),
        (pickle.dumps({"data": {"a": flow.nn.Parameter}}), None),  # the class itself is no tensor
        (b"\x80\x04}\x8c\x04data}\x8c\x01a\x8c\x07oneflow\x8c\x06Tensor\x93)\x81ss.", "no directory for one of its"),
        (b"", "cannot be read"),
    ],
)
def test_pickles_of_flow_save_run_no_code(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickled_data").write_bytes(content)
    if message is None:
        assert oneflow_save.read(tmp_path, trust=True) == {}
    else:
        with pytest.raises(UserError, match=message):
            oneflow_save.read(tmp_path, trust=True)
    assert not (tmp_path / "made-by-a-pickle").exists()


# conversion and model together


def test_a_model_from_a_lazy_directory_gives_the_reference_logits(tmp_path):
    path = write_lazy(tmp_path / "lazy", lazy_variables(model_state()), meta=False)
    config, state = load_any(path, config=model_config())
    model = BertForPreTraining(config).eval()
    assert model.load_arrays(state, source=str(path)) == []
    with np.load(model_directory("pretraining") / "reference.npz") as file:
        reference = dict(file)
    outputs = model(*(flow.tensor(reference[name]) for name in ("input_ids", "input_mask", "segment_ids")))
    for name in ("prediction_scores", "seq_relationship_score"):
        np.testing.assert_allclose(outputs[name].numpy(), reference[name], atol=1e-5)
