"""Checkpoints to convert: the random models of tests/fixtures, and independent writers of foreign formats."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = ("pretraining", "question_answering", "classification")


def model_directory(name):
    return FIXTURES / "huggingface" / name


def model_state(name="pretraining"):
    """Reads the tensors of the file."""
    return load_file(model_directory(name) / "model.safetensors")


def model_config(name="pretraining"):
    return json.loads((model_directory(name) / "config.json").read_text())


def google_variables(state):
    """Gives tensors TensorFlow's names and orientation, by rules instead of a table."""
    variables = {}
    for name, array in state.items():
        heads = {
            "qa_outputs.": "cls/squad/output_",
            "classifier.": "output_",
            "cls.seq_relationship.": "cls/seq_relationship/output_",
        }
        for prefix, replacement in heads.items():
            if name.startswith(prefix):
                variables[replacement + {"weight": "weights", "bias": "bias"}[name.removeprefix(prefix)]] = array
                break
        else:
            google = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            google = google.replace("embeddings.weight", "embeddings").replace("layer.", "layer_").replace(".", "/")
            if google == "cls/predictions/bias":
                google = "cls/predictions/output_bias"
            if google.endswith("/weight"):
                google, array = google.removesuffix("weight") + "kernel", array.T
            variables[google] = np.ascontiguousarray(array)
    return variables


def lazy_variables(state):
    """What the lazy training scripts wrote: Google's names with dashes, 3-D positions, a dense SQuAD head."""
    variables = {}
    for name, array in google_variables(state).items():
        name = name.replace("/", "-").replace("kernel", "weight")
        if name == "bert-embeddings-position_embeddings":
            array = array[None]
        if name == "cls-squad-output_weights":
            name, array = "cls-squad-output-weight", np.ascontiguousarray(array.T)
        if name == "cls-squad-output_bias":
            name = "cls-squad-output-bias"
        variables[name] = array
    return variables


def write_lazy(directory, variables, *, meta=True):
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in variables.items():
        (directory / name).mkdir()
        (directory / name / "out").write_bytes(array.astype("<f4").tobytes())
        if meta:
            dims = " ".join(f"dim: {size}" for size in array.shape)
            (directory / name / "meta").write_text("shape {" + dims + "}\ndata_type: kFloat\n")
    if meta:
        (directory / "snapshot_done").touch()
    return directory


def assert_same_state(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)
