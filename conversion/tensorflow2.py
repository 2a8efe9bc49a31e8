"""Maps the variables of TensorFlow 2's object checkpoints to Google's names.

Such a checkpoint stores a variable under its path through Python objects, `model/layer_with_weights-4/_output_dense`,
which does not identify it. The stored object graph contains the name that Keras gave the variable,
`transformer/layer_0/output/kernel`. The table maps the names in TensorFlow's model garden, KerasNLP and Hugging Face.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np

from utils.errors import UserError

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_MOST_NAME = 500  # characters; matching longer names would be slow
_NOT_PARAMETERS = re.compile(r"(^|/)(optimizer|\.OPTIMIZER_SLOT)/|^save_counter")
_LAYER = r"transformer(?:/layer_|_layer_)(\d+)"
_ATTENTION = rf"{_LAYER}/self_attention(?:_layer)?"

# The end of a Keras module's name, as a regular expression -> Google's module. If several variables match one
# parameter, the later row wins: the next-sentence head of a pretrainer has a pooler of its own.
_MODULES = (
    (r"word_embeddings|token_embedding", "bert/embeddings/word_embeddings"),
    (r"position_embeddings?", "bert/embeddings/position_embeddings"),
    (r"type_embeddings|token_type_embeddings|segment_embedding", "bert/embeddings/token_type_embeddings"),
    (r"embeddings/layer_norm|embeddings_layer_norm|embeddings/LayerNorm", "bert/embeddings/LayerNorm"),
    (rf"{_ATTENTION}/(query|key|value)", r"bert/encoder/layer_\1/attention/self/\2"),
    (rf"{_ATTENTION}(?:/attention_output|_output)", r"bert/encoder/layer_\1/attention/output/dense"),
    (rf"{_LAYER}/self_attention_layer_norm", r"bert/encoder/layer_\1/attention/output/LayerNorm"),
    (rf"{_LAYER}/(?:intermediate|feedforward_intermediate_dense)", r"bert/encoder/layer_\1/intermediate/dense"),
    (rf"{_LAYER}/(?:output|feedforward_output_dense)", r"bert/encoder/layer_\1/output/dense"),
    (rf"{_LAYER}/(?:output_layer_norm|feedforward_layer_norm)", r"bert/encoder/layer_\1/output/LayerNorm"),
    (r"bert/encoder/layer_\._(\d+)/(attention/self/(?:query|key|value))", r"bert/encoder/layer_\1/\2"),
    (r"bert/encoder/layer_\._(\d+)/((?:attention/)?output/(?:dense|LayerNorm))", r"bert/encoder/layer_\1/\2"),
    (r"bert/encoder/layer_\._(\d+)/intermediate/dense", r"bert/encoder/layer_\1/intermediate/dense"),
    (r"pooler_transform|pooled_dense|bert/pooler/dense", "bert/pooler/dense"),
    (r"\w+/pooler_dense", "bert/pooler/dense"),
    (r"cls/predictions/transform/(dense|LayerNorm)", r"cls/predictions/transform/\1"),
    (r"cls/predictions/output_bias|cls/predictions", "cls/predictions/output_bias"),
    (r"next_sentence/logits|cls/seq_relationship", "cls/seq_relationship/output"),
    (r"cls/squad|qa_outputs", "cls/squad/output"),
    (r"(?:\w+/)?logits|classifier", "output"),
)
# The model garden's earlier models use this name for every head. A masked-LM head next to it means pretraining; two
# outputs (start and end) mean question answering.
_ANY_HEAD = "predictions/transform/logits"


def read(reader: Any) -> dict[str, np.ndarray]:
    """Reads BERT's variables, under Google's names and with at most two axes.

    Args:
        reader: TensorFlow's reader of the checkpoint.

    Raises:
        UserError: the checkpoint contains no variable of a supported BERT.
    """
    types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    variables = {
        key: name
        for key, name in _variables(reader.get_tensor(OBJECT_GRAPH)).items()
        if key in types and types[key].is_floating and not _NOT_PARAMETERS.search(key)
    }
    pretraining = any("cls/predictions" in name for name in variables.values())
    found: dict[str, tuple[int, str]] = {}
    for key, name in variables.items():
        head = "cls/seq_relationship" if pretraining else "cls/squad" if shapes[key][-1:] == [2] else "classifier"
        known = _google_name(key, name.replace(_ANY_HEAD, head))
        if known and known[1] > found.get(known[0], (-1, ""))[0]:
            found[known[0]] = (known[1], key)
    if not found:
        shown = ", ".join(sorted(variables.values())[:3]) or "none"
        raise UserError(f"it is a TensorFlow 2 checkpoint, but not of a supported BERT (variables: {shown}).")
    return {target: _flat(target, reader.get_tensor(key)) for target, (_, key) in found.items()}


def _variables(graph: bytes) -> dict[str, str]:
    """{key in the checkpoint: the variable's own name}."""
    schema = importlib.import_module("tensorflow.core.protobuf.trackable_object_graph_pb2")
    try:
        nodes = schema.TrackableObjectGraph.FromString(graph).nodes
    except Exception as error:  # the exceptions differ between protobuf's implementations
        raise ValueError(f"its object graph is damaged: {error}") from None
    attributes = (attribute for node in nodes for attribute in node.attributes)
    return {each.checkpoint_key: each.full_name for each in attributes if len(each.full_name) <= _MOST_NAME}


def _google_name(key: str, name: str) -> tuple[str, int] | None:
    """Google's name of a variable and the matching row; None if it is not BERT's."""
    module, _, leaf = name.rpartition("/")
    if re.fullmatch(r"(.*/)?transformer_layer_\d+", module):  # KerasNLP's layers do not name their parts
        module += "/" + key.removesuffix(_SUFFIX).split("/")[-2].lstrip("_")
    for row, (pattern, target) in enumerate(_MODULES):
        if match := re.fullmatch(rf"(?:.*[/_])?(?:{pattern})", module):
            return _leaf(match.expand(target), leaf), row
    return None


def _leaf(module: str, leaf: str) -> str:
    if module.endswith(("_embeddings", "output_bias")):
        return module
    if module.endswith("output"):  # a head
        return f"{module}_{'bias' if leaf == 'bias' else 'weights'}"
    return f"{module}/{leaf}"


def _flat(target: str, array: np.ndarray) -> np.ndarray:
    """Joins the axes of heads and head size; output heads are [C, H] under Google's names."""
    if target.endswith("_weights"):
        return array.T
    if "/attention/self/" in target:
        return array.reshape(array.shape[0], -1) if target.endswith("kernel") else array.reshape(-1)
    if target.endswith("/attention/output/dense/kernel"):
        return array.reshape(-1, array.shape[-1])
    return array
