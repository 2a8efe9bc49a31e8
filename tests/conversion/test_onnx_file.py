"""Parameters in ONNX files as exporters write them, and how the reader meets damaged and hostile files."""

import contextlib
import json
import random
import resource

import numpy as np
import pytest

from conversion import load_any, read_checkpoint, write_checkpoint
from tests.conversion.samples import MODELS, assert_same_state, model_config, model_directory, model_state
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def exported(state, *, names=True, biases=True, gemm=False, shared=False, prefix="", constants=False):
    """A graph as PyTorch's exporter writes it: matrices transposed and anonymous.

    Args:
        state: the parameters.
        names: whether nodes are called after their modules.
        biases: whether the bias is added by a node of its own (otherwise there is none next to the product).
        gemm: whether linear layers are one Gemm, which takes the matrix as it is.
        shared: whether equal vectors are stored once.
        prefix: what wraps the model's names.
        constants: whether tensors are Constant nodes and not initializers.
    """
    nodes, tensors, seen = [], {}, {}
    for number, (name, array) in enumerate(state.items()):
        module = name.removesuffix(".weight")
        bias = prefix + module + ".bias"
        if array.ndim == 2 and "embeddings" not in name:
            node = f"/{module.replace('.', '/').replace('layer/', 'layer.')}" if names else ""
            if gemm:
                tensors[prefix + name] = array
                inputs = ["x", prefix + name, bias]
                nodes.append(helper.make_node("Gemm", inputs, [f"y{number}"], f"{node}/Gemm", transB=1))
                continue
            anonymous = f"onnx::MatMul_{number}"
            tensors[anonymous] = np.ascontiguousarray(array.T)
            nodes.append(helper.make_node("MatMul", ["x", anonymous], [f"y{number}"], f"{node}/MatMul"))
            if biases:
                nodes.append(helper.make_node("Add", [bias, f"y{number}"], [f"z{number}"], f"{node}/Add"))
        elif shared and array.tobytes() in seen:
            nodes.append(helper.make_node("Identity", [seen[array.tobytes()]], [prefix + name], f"Identity_{number}"))
        else:
            tensors[prefix + name] = seen[array.tobytes()] = array
            seen[array.tobytes()] = prefix + name
    tensors["/Constant_1"] = np.array(0.5, np.float32)
    tensors["position_ids"] = np.arange(53)
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    if constants:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in stored] + nodes
        stored = []
    return helper.make_model(helper.make_graph(nodes, "main_graph", [], [], stored))


def save(directory, model, config=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options",
    [{}, {"names": False}, {"biases": False}, {"gemm": True}, {"constants": True}, {"prefix": "0.auto_model."}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_spellings_of_exporters(tmp_path, name, options):
    path = save(tmp_path / "m", exported(model_state(name), **options), model_config(name))
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "onnx"
    assert_same_state(checkpoint.state, model_state(name))
    assert checkpoint.report.unexpected == []


def test_equal_vectors_that_are_stored_once(tmp_path, state, config):
    for name, array in state.items():
        if array.ndim == 1:
            array[...] = float(name.endswith("LayerNorm.weight"))
    path = save(tmp_path / "m", exported(state, shared=True), config)
    assert_same_state(load_any(path)[1], state)


def test_a_bare_encoder_and_the_directory_of_a_hub_model(tmp_path, state, config):
    encoder = {name.removeprefix("bert."): array for name, array in state.items() if name.startswith("bert.")}
    save(tmp_path / "m" / "onnx", exported(encoder))
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert_same_state(load_any(tmp_path / "m")[1], {"bert." + name: array for name, array in encoder.items()})
    assert_same_state(load_any(tmp_path / "m" / "onnx" / "model.onnx", config=config)[1], load_any(tmp_path / "m")[1])


def test_a_decoder_that_stands_for_the_tied_embeddings(tmp_path, state, config):
    renamed = {name.replace("bert.embeddings.word_embeddings", "cls.predictions.decoder"): array
               for name, array in state.items()}  # fmt: skip
    model = exported({name: array for name, array in renamed.items() if "decoder" not in name})
    words = onnx.numpy_helper.from_array(renamed["cls.predictions.decoder.weight"], "cls.predictions.decoder.weight")
    model.graph.initializer.append(words)
    assert_same_state(load_any(save(tmp_path / "m", model, config))[1], state)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions(tmp_path, state, config, kind):
    rounded = {name: array.astype(np.float16) for name, array in state.items()}
    model = exported({name: array.astype(kind) for name, array in rounded.items()})
    expected = {name: array.astype(np.float32) for name, array in rounded.items()}
    assert_same_state(load_any(save(tmp_path / "m", model, config))[1], expected)


def external(tmp_path, monkeypatch):
    """A model with a data file."""
    monkeypatch.setattr("conversion.onnx_export._MOST_INLINE_BYTES", 0)
    write_checkpoint(read_checkpoint(model_directory("pretraining")), tmp_path / "m", "onnx")
    return tmp_path / "m"


def test_a_data_file_that_is_missing_or_short(tmp_path, monkeypatch):
    path = external(tmp_path, monkeypatch)
    data = path / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(UserError, match="is too short for"):
        load_any(path)
    data.unlink()
    with pytest.raises(UserError, match=r"lacks the data file 'model\.onnx_data'"):
        load_any(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", ".", "a\0b"])
def test_a_data_file_elsewhere(tmp_path, monkeypatch, location):
    path = external(tmp_path, monkeypatch)
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    model = onnx.load(str(path / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"lacks the data file|not a readable ONNX file"):
        load_any(path)


def test_many_tensors_on_the_same_bytes(tmp_path, config):
    (tmp_path / "data").write_bytes(bytes(1 << 16))
    stored = []
    for layer in range(900):
        name = f"bert.encoder.layer.{layer}.output.dense.weight"
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.BFLOAT16, dims=[128, 256])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
        stored.append(tensor)
    save(tmp_path, helper.make_model(helper.make_graph([], "g", [], [], stored)))
    with pytest.raises(UserError, match="claim far more bytes"):
        load_any(tmp_path, config=config)


def test_a_small_file_that_claims_much_memory(tmp_path, config):
    nodes = [
        helper.make_node("Identity", ["words"], [f"bert.encoder.layer.{layer}.{part}.dense.weight"])
        for layer in range(900)
        for part in ("attention.output", "intermediate", "output")
    ]
    words = onnx.numpy_helper.from_array(np.ones((97, 1000), np.float32), "words")
    path = save(tmp_path / "m", helper.make_model(helper.make_graph(nodes, "g", [], [], [words])), config)
    with pytest.raises(UserError, match="claim far more bytes"):
        load_any(path)
    huge = onnx.TensorProto(name="bert.pooler.dense.weight", data_type=1, dims=[1 << 40, 1 << 40], raw_data=b"1234")
    path = save(tmp_path / "n", helper.make_model(helper.make_graph([], "g", [], [], [huge])), config)
    with pytest.raises(UserError, match="not a readable ONNX file"):
        load_any(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff" * 100, b"{}"])
def test_a_file_that_is_not_onnx(tmp_path, content, config):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError):
        load_any(tmp_path, config=config)


def test_identity_nodes_in_a_cycle(tmp_path, config):
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("a", "b"), ("b", "a"))]
    with pytest.raises(UserError, match="cycle"):
        load_any(save(tmp_path / "m", helper.make_model(helper.make_graph(nodes, "g", [], [])), config))


def test_damaged_onnx_files_never_crash(tmp_path, state, config):
    whole = exported(state).SerializeToString()
    generator = random.Random(7)
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(4):
            # Names, nodes and shapes lie around the numbers; a random byte mostly hits a number.
            damaged[generator.randrange(3000 if generator.random() < 0.5 else len(damaged))] = generator.randrange(256)
        (tmp_path / "model.onnx").write_bytes(damaged[: generator.choice((None, generator.randrange(len(damaged))))])
        with contextlib.suppress(UserError):
            load_any(tmp_path, config=config)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB
