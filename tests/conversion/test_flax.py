"""Msgpack checkpoints of Flax, written here by rules of their own, and damaged ones."""

import contextlib
import json
import random
import resource
import struct

import numpy as np
import pytest

from conversion import load_any, read_checkpoint
from tests.conversion.samples import MODELS, assert_same_state, model_config, model_state
from utils.errors import UserError

HEADS = 3


def packed(value):
    """msgpack, with the extension type that Flax gives to arrays."""
    if isinstance(value, dict):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xd9" + struct.pack(">B", len(value)) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    kind = "bfloat16" if value.dtype == np.uint16 else value.dtype.name  # which numpy does not have
    content = packed((value.shape, kind, value.tobytes()))
    return b"\xc9" + struct.pack(">Ib", len(content), 1) + content


def nested(arrays):
    """{"a/b": array} as a tree."""
    tree = {}
    for path, array in arrays.items():
        *modules, leaf = path.split("/")
        place = tree
        for module in modules:
            place = place.setdefault(module, {})
        place[leaf] = np.ascontiguousarray(array)
    return tree


def huggingface_tree(state):
    """Hugging Face's names in Flax."""
    arrays = {}
    for name, array in state.items():
        path = name.replace(".", "/")
        if name.endswith("LayerNorm.weight"):
            path = path.removesuffix("weight") + "scale"
        elif name.endswith("embeddings.weight"):
            path = path.removesuffix("weight") + "embedding"
        elif name.endswith(".weight"):
            path, array = path.removesuffix("weight") + "kernel", array.T
        arrays[path] = array
    return nested(arrays)


def flaxbert_tree(state):
    """FlaxBERT's names and shapes."""
    arrays = {}
    for name, array in state.items():
        module, leaf = name.rsplit(".", 1)
        scale = "scale" if "LayerNorm" in module else "embedding" if "embeddings" in module else "kernel"
        leaf = scale if leaf == "weight" else leaf
        hidden = array.shape[-1] if "LayerNorm" not in module else len(array)
        if leaf == "kernel" and module not in ("cls.seq_relationship", "classifier"):
            array = array.T
        for part in ("query", "key", "value"):
            if module.endswith(f"attention.self.{part}"):
                array = (array.reshape(hidden, HEADS, -1).swapaxes(0, 1) if leaf == "kernel"
                         else array.reshape(HEADS, -1))  # fmt: skip
        if module.endswith("attention.output.dense"):
            array = (array.reshape(HEADS, -1, hidden) if leaf == "kernel"
                     else np.stack([array, *[array * 0] * (HEADS - 1)]))  # fmt: skip
        if "position_embeddings" in module:
            array = array[None]
        for ours, theirs in (
            ("bert.encoder.layer.", "bert.encoder_layer_"),
            ("attention.self.", "self_attention.attn."),
            ("attention.output.dense", "self_attention.attn.output"),
            ("attention.output.LayerNorm", "self_attention_layer_norm"),
            ("intermediate.dense", "feed_forward.intermediate"),
            ("output.dense", "feed_forward.output"),
            ("output.LayerNorm", "output_layer_norm"),
            ("bert.embeddings.LayerNorm", "bert.embeddings_layer_norm"),
            ("token_type_embeddings", "type_embeddings"),
            ("bert.embeddings.", "bert."),
            ("pooler.dense", "pooler"),
            ("cls.predictions.transform.", "predictions_transform_"),
            ("transform_LayerNorm", "transform_layernorm"),
            ("cls.predictions", "predictions_output"),
            ("cls.seq_relationship", "classification"),
            ("classifier", "classification"),
        ):
            module = module.replace(ours, theirs)
        arrays[f"{module}.{leaf}".replace(".", "/")] = array
    return nested(arrays) | {"GatherIndexes_0": {}}


def save(directory, tree, name="flax_model.msgpack", config=None):
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(packed(tree))
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", MODELS)
def test_hugging_face_in_flax(tmp_path, name):
    path = save(tmp_path / "m", huggingface_tree(model_state(name)), config=model_config(name))
    for source in (path, path / "flax_model.msgpack"):
        checkpoint = read_checkpoint(source)
        assert checkpoint.format == "flax"
        assert_same_state(checkpoint.state, model_state(name))
        assert checkpoint.report.unexpected == []


def test_a_bare_encoder(tmp_path, state, config):
    encoder = {name: array for name, array in state.items() if name.startswith("bert.")}
    path = save(tmp_path / "m", huggingface_tree(encoder)["bert"], config=config)
    assert_same_state(load_any(path)[1], encoder)


@pytest.mark.parametrize("name", ["pretraining", "classification"])
def test_flaxbert(tmp_path, name):
    tree = {"target": {"params": flaxbert_tree(model_state(name))}, "state": [{"step": 1234, "grad_ema": {}}, None]}
    save(tmp_path / "m", {"target": {"params": {}}}, "checkpoint_900", model_config(name))
    path = save(tmp_path / "m", tree, "checkpoint_1234")
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "flax"
    assert_same_state(checkpoint.state, model_state(name))
    assert checkpoint.report.unexpected == []


def test_the_biases_of_flaxberts_heads_add_up(tmp_path, state, config):
    tree = flaxbert_tree(state)
    attention = tree["bert"]["encoder_layer_0"]["self_attention"]["attn"]["output"]
    attention["bias"] = np.arange(45, dtype=np.float32).reshape(3, 15)
    found = load_any(save(tmp_path / "m", tree, config=config))[1]
    expected = np.arange(45, dtype=np.float32).reshape(3, 15).sum(axis=0)
    np.testing.assert_array_equal(found["bert.encoder.layer.0.attention.output.dense.bias"], expected)


def test_a_training_state(tmp_path, state, config):
    params = huggingface_tree(state)
    optimizer = {"0": {"mu": params, "nu": params, "count": np.int32(7)}}
    tree = {"step": 7, "params": params, "opt_state": optimizer}
    assert_same_state(load_any(save(tmp_path / "m", tree, "checkpoint_7", config))[1], state)


def test_an_array_in_pieces(tmp_path, state, config):
    tree = huggingface_tree(state)
    words = state["bert.embeddings.word_embeddings.weight"]
    flat = words.reshape(-1)
    tree["bert"]["embeddings"]["word_embeddings"]["embedding"] = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": words.shape[0], "1": words.shape[1]},
        "chunks": {"0": flat[:1000], "1": flat[1000:]},
    }
    assert_same_state(load_any(save(tmp_path / "m", tree, config=config))[1], state)


def test_bfloat16(tmp_path, state, config):
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in state.items()}
    found = load_any(save(tmp_path / "m", huggingface_tree(halves), config=config))[1]
    assert_same_state(found, {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in halves.items()})


def test_integers_are_not_parameters(tmp_path, state, config):
    numbers = {name: array.astype(np.int32) for name, array in state.items()}
    with pytest.raises(UserError, match="no BERT encoder"):
        load_any(save(tmp_path / "m", huggingface_tree(numbers), config=config))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x01",
        b"\xc0" * 50,
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 2_000_000,
        b"\x81\xa1a" * 100_000,
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
        b"\x81\x01\x02",
        packed({"a": np.zeros(3, np.float32)})[:-1],
        packed({"__msgpack_chunked_array__": True, "chunks": {}, "shape": {}}),
        packed({"a": {"__msgpack_chunked_array__": True, "chunks": {"0": 1}, "shape": []}}),
        packed({"a": np.zeros(0, np.float32)}),
    ],
)
def test_files_that_are_not_parameters(tmp_path, content, config):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(UserError):
        load_any(tmp_path, config=config)


def test_an_array_that_claims_another_shape(tmp_path, state, config):
    path = save(tmp_path / "m", huggingface_tree(state), config=config)
    content = (path / "flax_model.msgpack").read_bytes()
    shape = packed((97, 15))
    for other in ((97, 16), (2**62, 2**62), (-97, -15)):
        (path / "flax_model.msgpack").write_bytes(content.replace(shape, packed(other)))
        with pytest.raises(UserError, match="not a complete Flax checkpoint"):
            load_any(path)


def test_damaged_flax_checkpoints_never_crash(tmp_path, state, config):
    generator = random.Random(13)
    for tree in (huggingface_tree(state), {"target": {"params": flaxbert_tree(state)}}):
        whole = packed(tree)
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(4):
                damaged[generator.randrange(500 if generator.random() < 0.5 else len(whole))] = generator.randrange(256)
            content = damaged[: generator.choice((None, generator.randrange(len(damaged))))]
            (tmp_path / "flax_model.msgpack").write_bytes(content)
            with contextlib.suppress(UserError):
                load_any(tmp_path, config=config)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB
