"""Object checkpoints of TensorFlow 2, with the names and shapes of each library that writes BERT in it."""

import contextlib
import json
import random

import numpy as np
import pytest

from conversion import read_checkpoint
from conversion.tensorflow2 import OBJECT_GRAPH
from tests.conversion.samples import MODELS, assert_same_state, google_variables, model_config, model_state
from utils.errors import UserError

HEADS = 3


def garden(name, array):
    """The model garden's name of one of Google's variables, and its shape there."""
    name = name.removeprefix("bert/").replace("encoder/layer_", "transformer/layer_")
    for part in ("query", "key", "value"):
        if name.endswith(f"self/{part}/kernel"):
            array = array.reshape(len(array), HEADS, -1)
        if name.endswith(f"self/{part}/bias"):
            array = array.reshape(HEADS, -1)
    if name.endswith("attention/output/dense/kernel"):
        array = array.reshape(HEADS, -1, array.shape[1])
    if name.endswith("_weights"):
        name, array = name.removesuffix("_weights") + "/kernel", array.T
    return name.replace("output_bias", "output/bias"), array


def renamed(name, table):
    for ours, theirs in table:
        name = name.replace(ours, theirs)
    return name


GARDEN = (
    ("embeddings/word_embeddings", "word_embeddings/embeddings"),
    ("embeddings/position_embeddings", "position_embedding/embeddings"),
    ("embeddings/token_type_embeddings", "type_embeddings/embeddings"),
    ("embeddings/LayerNorm", "embeddings/layer_norm"),
    ("attention/self", "self_attention"),
    ("attention/output/dense", "self_attention/attention_output"),
    ("attention/output/LayerNorm", "self_attention_layer_norm"),
    ("intermediate/dense", "intermediate"),
    ("output/dense", "output"),
    ("output/LayerNorm", "output_layer_norm"),
    ("pooler/dense", "pooler_transform"),
    ("cls/predictions/output/bias", "cls/predictions/output_bias/bias"),
    ("cls/predictions", "bert/cls/predictions"),
    ("cls/seq_relationship/output", "bert/next_sentence/logits"),
    ("cls/squad/output", "predictions/transform/logits"),
)
GARDEN_V1 = (*GARDEN[:-2], (GARDEN[-2][0], GARDEN[-1][1]), GARDEN[-1])


def variables_of(state, table=GARDEN, prefix=""):
    """{Keras' name: array}."""
    found = {}
    for google, array in google_variables(state).items():
        name, array = garden(google, array)
        if name in ("output/kernel", "output/bias"):
            name = name.replace("output", "sentence_prediction/logits")
        found[prefix + renamed(name, table)] = array
    return found


def save(directory, variables, **others):
    """An object checkpoint of variables that are called so; their paths through objects say nothing."""
    tensorflow = pytest.importorskip("tensorflow")
    root = tensorflow.Module()
    root.layers = [tensorflow.Variable(array, name=name) for name, array in variables.items()]
    directory.mkdir()
    (directory / "bert_config.json").write_text(json.dumps(model_config()))
    others = {key: tensorflow.Variable(value) for key, value in others.items()}
    tensorflow.train.Checkpoint(model=root, **others).save(str(directory / "bert_model.ckpt"))
    return directory


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("table", [GARDEN, GARDEN_V1], ids=["second", "first"])
@pytest.mark.parametrize("prefix", ["", "bert_encoder_v2/"])
def test_the_model_gardens_encoders_and_heads(tmp_path, name, table, prefix):
    path = save(tmp_path / "m", variables_of(model_state(name), table, prefix), iterations=np.int64(7))
    checkpoint = read_checkpoint(path, config=model_config(name))
    assert checkpoint.format == "tf"
    assert_same_state(checkpoint.state, model_state(name))
    assert checkpoint.architecture == model_config(name)["architectures"][0]


def test_the_pooler_of_the_next_sentence_head_wins(tmp_path, state, config):
    variables = variables_of(state)
    for leaf in ("kernel", "bias"):
        variables[f"bert/next_sentence/pooler_dense/{leaf}"] = variables[f"pooler_transform/{leaf}"]
        variables[f"pooler_transform/{leaf}"] = variables[f"pooler_transform/{leaf}"] * 0
    assert_same_state(read_checkpoint(save(tmp_path / "m", variables)).state, state)


def test_hugging_face_in_keras(tmp_path, state, config):
    variables = {}
    for name, array in google_variables(state).items():
        name = name.replace("encoder/layer_", "encoder/layer_._").replace("predictions/output_bias", "predictions/bias")
        name = {
            "bert/embeddings/word_embeddings": "bert/embeddings/word_embeddings/weight",
            "bert/embeddings/position_embeddings": "bert/embeddings/position_embeddings/embeddings",
            "bert/embeddings/token_type_embeddings": "bert/embeddings/token_type_embeddings/embeddings",
            "cls/seq_relationship/output_weights": "nsp___cls/seq_relationship/kernel",
            "cls/seq_relationship/output_bias": "nsp___cls/seq_relationship/bias",
        }.get(name, name.replace("cls/predictions", "mlm___cls/predictions"))
        variables[f"tf_bert_for_pre_training/{name}"] = array.T if "seq_relationship/kernel" in name else array
    assert_same_state(read_checkpoint(save(tmp_path / "m", variables)).state, state)


def test_keras_nlp(tmp_path, state, config):
    """Its layers do not name what is in them, and the path through their attributes does."""
    tensorflow = pytest.importorskip("tensorflow")
    root = tensorflow.Module()
    for name, array in google_variables(state).items():
        if not name.startswith("bert/"):
            continue
        name, array = garden(name, array)
        name = renamed(
            name,
            (
                ("embeddings/word_embeddings", "token_embedding/embeddings"),
                ("embeddings/position_embeddings", "position_embedding/embeddings"),
                ("embeddings/token_type_embeddings", "segment_embedding/embeddings"),
                ("embeddings/LayerNorm", "embeddings_layer_norm"),
                ("transformer/layer_", "transformer_layer_"),
                ("attention/self", "self_attention_layer"),
                ("attention/output/dense", "self_attention_layer/attention_output"),
                ("attention/output/LayerNorm", "_self_attention_layer_norm"),
                ("intermediate/dense", "_feedforward_intermediate_dense"),
                ("output/dense", "_feedforward_output_dense"),
                ("output/LayerNorm", "_feedforward_layer_norm"),
                ("pooler/dense", "pooled_dense"),
            ),
        )
        *modules, leaf = name.split("/")
        place = root
        for module in modules:
            if not hasattr(place, module):
                setattr(place, module, tensorflow.Module())
            place = getattr(place, module)
        shown = "/".join(module for module in modules if not module.startswith("_"))
        setattr(place, leaf, tensorflow.Variable(array, name=f"{shown}/{leaf}"))
    (tmp_path / "m").mkdir()
    tensorflow.train.Checkpoint(model=root).save(str(tmp_path / "m" / "ckpt"))
    expected = {name: array for name, array in state.items() if name.startswith("bert.")}
    assert_same_state(read_checkpoint(tmp_path / "m", config=config).state, expected)


def test_the_optimizer_is_left_out(tmp_path, state, config):
    tensorflow = pytest.importorskip("tensorflow")
    variables = [tensorflow.Variable(array, name=name) for name, array in variables_of(state).items()]
    optimizer = tensorflow.keras.optimizers.Adam()
    optimizer.build(variables)
    (tmp_path / "m").mkdir()
    root = tensorflow.Module()
    root.variables_of_the_model = variables
    tensorflow.train.Checkpoint(model=root, optimizer=optimizer).save(str(tmp_path / "m" / "ckpt"))
    assert_same_state(read_checkpoint(tmp_path / "m", config=config).state, state)


def test_another_model(tmp_path):
    path = save(tmp_path / "m", {"conv_1/kernel": np.zeros((3, 5), np.float32)})
    with pytest.raises(UserError, match=r"not of a supported BERT \(variables: conv_1/kernel\)"):
        read_checkpoint(path)


def test_damaged_object_graphs_never_crash(tmp_path, state, config):
    """The graph alone, for TensorFlow itself checks the bytes of its files."""
    tensorflow = pytest.importorskip("tensorflow")
    reader = tensorflow.train.load_checkpoint(str(save(tmp_path / "m", variables_of(state)) / "bert_model.ckpt-1"))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    generator = random.Random(17)
    for number in range(60):
        damaged = bytearray(tensors[OBJECT_GRAPH])
        for _ in range(4):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        tensors_now = tensors | {
            OBJECT_GRAPH: bytes(damaged[: generator.choice((None, generator.randrange(len(damaged))))])
        }
        prefix = tmp_path / f"bert_model.ckpt-{number}"
        tensorflow.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors_now),
            shape_and_slices=[""] * len(tensors_now),
            tensors=[tensorflow.constant(value) for value in tensors_now.values()],
        )
        with contextlib.suppress(UserError):
            read_checkpoint(prefix, config=config)
