"""Writes BERT as an ONNX graph, directly from the weights: without PyTorch, OneFlow or tracing.

Inputs, outputs and axes have the names that Hugging Face's exporter gives them, so that optimum,
text-embeddings-inference and sentence-transformers read the file. Nodes are named after the module they belong to
(`/bert/encoder/layer.0/attention/self/query/MatMul`); `onnx_file.py` relies on that.

Shapes: `B` batch, `S` sequence, `H` hidden, `N` heads, `D` head size, `I` intermediate, `V` vocabulary, `C` classes.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from configs.model import BertConfig
from conversion.names import State
from conversion.onnx_calibration import Ranges, measure
from utils.errors import UserError

FILE, DATA_FILE = "model.onnx", "model.onnx_data"
_OPSET, _IR_VERSION = 17, 8  # the first opset with LayerNormalization, supported since ONNX Runtime 1.12
_MOST_INLINE_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB; a larger model keeps its weights in DATA_FILE
_MASKED_SCORE = -10000.0  # the score of masked positions, as in modeling/ops.py
# The sum of two products of an unsigned byte and a weight in this range fits in the 16 bits of CPUs without VNNI.
_INT8_RANGE = 64
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

# Hugging Face's tasks and the class for each.
TASKS = {
    "feature-extraction": "BertModel",
    "fill-mask": "BertForMaskedLM",
    "next-sentence": "BertForNextSentencePrediction",
    "question-answering": "BertForQuestionAnswering",
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
}

Outputs = dict[str, tuple[str, tuple[Any, ...]]]  # {name: (tensor in the graph, its shape)}


@dataclass(frozen=True)
class OnnxOptions:
    """The settings of an ONNX graph.

    Attributes:
        task: one of `TASKS`, or "auto" for all outputs of the model's own class.
        precision: "fp32"; or "int8", which stores the encoder's matrices and the masked-LM decoder as 8-bit integers,
            one scale per output channel, and quantizes activations at run time.
        calibration_path: a file of texts from which the scales of an "int8" graph's activations are computed. The
            graph then has QuantizeLinear and DequantizeLinear nodes around float32 ones (QDQ).
    """

    task: str = "auto"
    precision: str = "fp32"
    calibration_path: str | None = None


def write(state: State, config: BertConfig, architecture: str, directory: Path, options: OnnxOptions) -> State:
    """Writes `model.onnx`, and `model.onnx_data` if the weights exceed protobuf's limit.

    Args:
        state: the parameters, under Hugging Face's names.
        config: the model's shape.
        architecture: the Hugging Face class of the model, which `options.task` may replace.
        directory: must exist; for calibration, it must contain the tokenizer's files.
        options: what to write.

    Returns:
        The parameters that the graph uses. Question answering needs no pooler, for example.

    Raises:
        UserError: a package is not installed, a parameter is missing, or the texts cannot be used.
    """
    if config.is_extended:
        raise UserError("--to onnx does not support this variant of BERT's encoder (see docs/encoder.md): use --to hf.")
    architecture = TASKS.get(options.task, architecture)
    ranges: Ranges | None = None
    if options.precision == "int8" and options.calibration_path:
        graph = _write_graph(state, config, architecture, directory, watched=True)
        texts, longest = options.calibration_path, config.max_position_embeddings
        ranges = measure(directory / FILE, list(graph.quantizable), texts, longest)
    graph = _write_graph(state, config, architecture, directory, precision=options.precision, ranges=ranges)
    return {name: array for name, array in state.items() if name in graph.used}


def _write_graph(
    state: State,
    config: BertConfig,
    architecture: str,
    directory: Path,
    *,
    precision: str = "fp32",
    ranges: Ranges | None = None,
    watched: bool = False,
) -> _Graph:
    """Writes one graph; `watched` adds the quantizable activations to its outputs."""
    onnx = load_onnx()
    inline = sum(array.nbytes for array in state.values()) < _MOST_INLINE_BYTES
    with open(directory / DATA_FILE, "wb") as data:
        graph = _Graph(onnx, state, int8=precision == "int8", ranges=ranges, data=None if inline else data)
        outputs = _HEADS[architecture](graph, config, _encoder(graph, config))
    if inline:
        (directory / DATA_FILE).unlink()
    metadata = {"architecture": architecture, "precision": precision}
    content = graph.model(outputs, metadata, graph.quantizable if watched else ()).SerializeToString()
    (directory / FILE).write_bytes(content)
    if (directory / FILE).read_bytes() != content:
        raise UserError(f"{directory / FILE} differs from the data written when read back: check the disk.")
    return graph


def load_onnx() -> Any:
    """Imports the optional `onnx` package; raises UserError if it is not installed."""
    try:
        importlib.import_module("onnx.numpy_helper")
        return importlib.import_module("onnx")
    except ImportError:
        raise UserError("ONNX files need the onnx package: install it with `make setup EXTRAS=onnx`.") from None


class _Graph:
    """Collects a graph's nodes and initializers. Methods append nodes and return the name of the last one's output.

    Args:
        onnx: the package.
        state: the parameters to draw from.
        int8: whether `linear` quantizes.
        ranges: the range of each quantized activation; None to quantize at run time.
        data: a file for the matrices, or None to store them in the graph.
    """

    def __init__(self, onnx: Any, state: State, *, int8: bool, ranges: Ranges | None, data: BinaryIO | None) -> None:
        self._onnx, self._state, self._int8, self._ranges, self._data = onnx, state, int8, ranges, data
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._names: dict[str, int] = {}
        self._quantized: dict[str, list[str]] = {}
        self.used: set[str] = set()
        self.quantizable: dict[str, None] = {}  # activations, in order

    def node(self, operator: str, inputs: list[str], scope: str = "", outputs: int = 1, **attributes: Any) -> str:
        """Adds a node within a module, such as `bert.encoder.layer.0`."""
        # Dots separate modules from each other, but not a list from its index.
        name = "/" + re.sub(r"\.(?!\d)", "/", f"{scope}.{operator}".removeprefix("."))
        self._names[name] = number = self._names.get(name, -1) + 1
        name += f"_{number}" if number else ""
        results = [f"{name}_output_{i}" for i in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, results, name=name, **attributes))
        return results[0]

    def constant(self, name: str, values: Any, kind: Any = np.float32) -> str:
        """Adds an initializer that is not a parameter of the model."""
        return self._initializer(name, np.asarray(values, dtype=kind))

    def parameter(self, name: str) -> str:
        """Adds a parameter of the model, unchanged."""
        return self._initializer(name, self._values(name))

    def linear(self, x: str, module: str, *, quantizable: bool = False) -> str:
        """x [..., in] -> [..., out], with the module's weight [out, in] and its bias, if it has one."""
        weight = self._values(f"{module}.weight")
        return self.add_bias(self._product(x, module, weight, quantizable), module)

    def decoder(self, x: str, module: str, weight: str) -> str:
        """x [..., H] -> [..., V], with a weight [V, H] that is already in the graph."""
        self.quantizable[x] = None
        if self._int8:
            return self._product(x, module, self._values(weight), quantizable=True)
        return self.node("MatMul", [x, self.node("Transpose", [weight], module, perm=[1, 0])], module)

    def holds(self, name: str) -> bool:
        """Whether the model has a parameter."""
        return name in self._state

    def add_bias(self, x: str, module: str) -> str:
        """x, plus the module's bias if it has one."""
        bias = f"{module}.bias"
        return self.node("Add", [x, self.parameter(bias)], module) if self.holds(bias) else x

    def layer_norm(self, x: str, module: str, eps: float) -> str:
        """Layer normalization (Ba et al. 2016) over the last axis."""
        inputs = [x, self.parameter(f"{module}.weight"), self.parameter(f"{module}.bias")]
        return self.node("LayerNormalization", inputs, module, axis=-1, epsilon=eps)

    def gelu(self, x: str, scope: str) -> str:
        """GELU, the erf form, with the node pattern that runtimes fuse."""
        root, one, half = (self.constant(f"gelu_{v}", v) for v in (math.sqrt(2), 1.0, 0.5))
        inner = self.node("Add", [self.node("Erf", [self.node("Div", [x, root], scope)], scope), one], scope)
        return self.node("Mul", [self.node("Mul", [x, inner], scope), half], scope)

    def model(self, outputs: Outputs, metadata: dict[str, str], watched: Iterable[str] = ()) -> Any:
        """The ModelProto; `watched` tensors are outputs too."""
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        axes = ["batch_size", "sequence_length"]
        inputs = [helper.make_tensor_value_info(name, kinds.INT64, axes) for name in _INPUTS]
        results = []
        for name, (tensor, shape) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"/{name}/Identity"))
            results.append(helper.make_tensor_value_info(name, kinds.FLOAT, list(shape)))
        results += [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in watched]
        graph = helper.make_graph(self._nodes, "bert", inputs, results, list(self._initializers.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="oneflow-bert",
        )
        helper.set_model_props(model, metadata)
        return model

    def _values(self, name: str) -> np.ndarray:
        if name not in self._state:
            raise UserError(f"{name} is missing but needed by the graph: use another --onnx_task or model.")
        self.used.add(name)
        return self._state[name]

    def _product(self, x: str, module: str, weight: np.ndarray, quantizable: bool) -> str:
        if quantizable:
            self.quantizable[x] = None
        if not (self._int8 and quantizable):
            # The transposed matrix gets a different name, so that it is not mistaken for Hugging Face's.
            matrix = self._initializer(f"{module}.weight_transposed", weight.T)
            return self.node("MatMul", [x, matrix], module)
        values, scales = quantize_weight(weight)
        matrix = self._initializer(f"{module}.weight_int8", values.T)
        weight_scale = self.constant(f"{module}.weight_scale", scales)
        if self._ranges is not None:
            matrix = self.node("DequantizeLinear", [matrix, weight_scale], module, axis=1)
            return self.node("MatMul", [self._fixed(x, *self._ranges[x]), matrix], module)
        activation, scale, zero_point = self._quantize(x)
        product = self.node("MatMulInteger", [activation, matrix, zero_point], module)  # int32
        product = self.node("Cast", [product], module, to=self._onnx.TensorProto.FLOAT)
        return self.node("Mul", [product, self.node("Mul", [scale, weight_scale], module)], module)

    def _quantize(self, x: str) -> list[str]:
        """Unsigned bytes, their scale and their zero point; created once per x."""
        if x not in self._quantized:
            self.node("DynamicQuantizeLinear", [x], "quantization", outputs=3)
            self._quantized[x] = list(self._nodes[-1].output)
        return self._quantized[x]

    def _fixed(self, x: str, low: float, high: float) -> str:
        """x rounded to 256 levels over its range, which contains 0; created once per x."""
        if x not in self._quantized:
            step = (high - low) / 255 or 1.0
            scale = self.constant(f"{x}_scale", step)
            zero_point = self.constant(f"{x}_zero_point", min(round(-low / step), 255), np.uint8)
            steps = self.node("QuantizeLinear", [x, scale, zero_point], "quantization")
            self._quantized[x] = [self.node("DequantizeLinear", [steps, scale, zero_point], "quantization")]
        return self._quantized[x][0]

    def _initializer(self, name: str, array: np.ndarray) -> str:
        if name not in self._initializers:
            kind = self._onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor = self._onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
            content = np.ascontiguousarray(array).tobytes()
            if self._data is None or array.ndim < 2:
                tensor.raw_data = content
            else:
                tensor.data_location = self._onnx.TensorProto.EXTERNAL
                place = {"location": DATA_FILE, "offset": self._data.tell(), "length": len(content)}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                self._data.write(content)
            self._initializers[name] = tensor
        return name


def quantize_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [out, in] and float32 scales [out] whose product is closest to `weight` [out, in]."""
    scales = np.abs(weight).max(axis=1) / np.float32(_INT8_RANGE)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


def _encoder(graph: _Graph, config: BertConfig) -> str:
    """`sequence_output` [B, S, H]."""
    hidden = _embeddings(graph, config)
    # Mask and attention have the form that Hugging Face's exporter writes and runtimes recognize.
    mask = graph.node("Unsqueeze", ["attention_mask", graph.constant("axis_1", [1], np.int64)])  # [B, 1, S]
    mask = graph.node("Unsqueeze", [mask, graph.constant("axis_2", [2], np.int64)])  # [B, 1, 1, S]
    mask = graph.node("Cast", [mask], to=1)
    mask = graph.node("Sub", [graph.constant("one", 1.0), mask])
    mask = graph.node("Mul", [mask, graph.constant("masked_score", _MASKED_SCORE)])
    for number in range(config.num_hidden_layers):
        hidden = _layer(graph, config, f"bert.encoder.layer.{number}", hidden, mask)
    return graph.layer_norm(hidden, "bert.encoder.LayerNorm", config.layer_norm_eps) if config.final_norm else hidden


def _embeddings(graph: _Graph, config: BertConfig) -> str:
    """ids [B, S] -> [B, S, H]."""
    scope = "bert.embeddings"
    words = graph.node("Gather", [graph.parameter(f"{scope}.word_embeddings.weight"), "input_ids"], scope)
    segments = graph.node("Gather", [graph.parameter(f"{scope}.token_type_embeddings.weight"), "token_type_ids"], scope)
    length = graph.node("Shape", ["input_ids"], scope, start=1, end=2)  # [1]
    zero = graph.constant("axis_0", [0], np.int64)
    table = graph.parameter(f"{scope}.position_embeddings.weight")
    positions = graph.node("Slice", [table, zero, length, zero], scope)  # [S, H]
    hidden = graph.node("Add", [graph.node("Add", [words, segments], scope), positions], scope)
    return graph.layer_norm(hidden, f"{scope}.LayerNorm", config.layer_norm_eps) if config.embedding_norm else hidden


def _layer(graph: _Graph, config: BertConfig, scope: str, hidden: str, mask: str) -> str:
    """[B, S, H] -> [B, S, H]; with `norm` "pre" LayerNorm comes before attention and feed-forward, not after."""

    def norm(x: str, module: str, when: str) -> str:
        return graph.layer_norm(x, module, config.layer_norm_eps) if config.norm == when else x

    attention = f"{scope}.attention.output"
    read = norm(hidden, f"{attention}.LayerNorm", "pre")
    context = _attention(graph, config, f"{scope}.attention.self", read, mask)
    context = graph.linear(context, f"{attention}.dense", quantizable=True)
    hidden = norm(graph.node("Add", [context, hidden], attention), f"{attention}.LayerNorm", "post")
    output = f"{scope}.output"
    read = norm(hidden, f"{output}.LayerNorm", "pre")
    expanded = graph.linear(read, f"{scope}.intermediate.dense", quantizable=True)  # [B, S, I]
    expanded = graph.linear(graph.gelu(expanded, f"{scope}.intermediate"), f"{output}.dense", quantizable=True)
    return norm(graph.node("Add", [expanded, hidden], output), f"{output}.LayerNorm", "post")


def _attention(graph: _Graph, config: BertConfig, scope: str, hidden: str, mask: str) -> str:
    """[B, S, H] -> [B, S, H]."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    split = graph.constant("split_heads", [0, 0, heads, size], np.int64)  # 0 keeps the axis
    turned = {}
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        projected = graph.linear(hidden, f"{scope}.{part}", quantizable=True)
        projected = graph.node("Reshape", [projected, split], scope)  # [B, S, N, D]
        turned[part] = graph.node("Transpose", [projected], scope, perm=order)
    scores = graph.node("MatMul", [turned["query"], turned["key"]], scope)  # [B, N, S, S]
    scores = graph.node("Div", [scores, graph.constant("sqrt_head_size", math.sqrt(size))], scope)
    probs = graph.node("Softmax", [graph.node("Add", [scores, mask], scope)], scope, axis=-1)
    context = graph.node("MatMul", [probs, turned["value"]], scope)  # [B, N, S, D]
    context = graph.node("Transpose", [context], scope, perm=[0, 2, 1, 3])
    return graph.node("Reshape", [context, graph.constant("join_heads", [0, 0, config.hidden_size], np.int64)], scope)


def _pooled(graph: _Graph, sequence: str) -> str:
    """[B, S, H] -> [B, H]."""
    first = graph.node("Gather", [sequence, graph.constant("index_0", 0, np.int64)], "bert.pooler", axis=1)
    return graph.node("Tanh", [graph.linear(first, "bert.pooler.dense")], "bert.pooler")


def _features(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    outputs: Outputs = {"last_hidden_state": (sequence, (*_TOKENS, config.hidden_size))}
    if graph.holds("bert.pooler.dense.weight"):
        outputs["pooler_output"] = (_pooled(graph, sequence), (*_TEXTS, config.hidden_size))
    return outputs


def _masked_lm(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    transform = "cls.predictions.transform"
    hidden = graph.gelu(graph.linear(sequence, f"{transform}.dense", quantizable=True), transform)
    hidden = graph.layer_norm(hidden, f"{transform}.LayerNorm", config.layer_norm_eps)
    scores = graph.decoder(hidden, "cls.predictions.decoder", "bert.embeddings.word_embeddings.weight")
    return {"logits": (graph.add_bias(scores, "cls.predictions"), (*_TOKENS, config.vocab_size))}


def _pretraining(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    relationship = graph.linear(_pooled(graph, sequence), "cls.seq_relationship")
    return _masked_lm(graph, config, sequence) | {"seq_relationship_logits": (relationship, (*_TEXTS, 2))}


def _next_sentence(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    return {"logits": (graph.linear(_pooled(graph, sequence), "cls.seq_relationship"), (*_TEXTS, 2))}


def _question_answering(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    logits = graph.linear(sequence, "qa_outputs")  # [B, S, 2]
    edges = {}
    for number, edge in enumerate(("start", "end")):
        index = graph.constant(f"index_{number}", number, np.int64)
        edges[f"{edge}_logits"] = (graph.node("Gather", [logits, index], "qa_outputs", axis=2), _TOKENS)
    return edges


def _sequence_classification(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    return {"logits": (graph.linear(_pooled(graph, sequence), "classifier"), (*_TEXTS, config.num_labels))}


def _token_classification(graph: _Graph, config: BertConfig, sequence: str) -> Outputs:
    return {"logits": (graph.linear(sequence, "classifier"), (*_TOKENS, config.num_labels))}


_TEXTS: tuple[Any, ...] = ("batch_size",)
_TOKENS: tuple[Any, ...] = ("batch_size", "sequence_length")
# The head of each Hugging Face class, with the output names that optimum expects.
_HEADS: dict[str, Callable[[_Graph, BertConfig, str], Outputs]] = {
    "BertModel": _features,
    "BertForMaskedLM": _masked_lm,
    "BertForPreTraining": _pretraining,
    "BertForNextSentencePrediction": _next_sentence,
    "BertForQuestionAnswering": _question_answering,
    "BertForSequenceClassification": _sequence_classification,
    "BertForTokenClassification": _token_classification,
}
