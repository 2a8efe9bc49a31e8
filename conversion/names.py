"""The table of BERT's parameters: their names, shapes and orientation in every format.

Hugging Face's names and shapes are canonical. TensorFlow's names are Google's; lazy OneFlow uses the same names with
dashes. Dense kernels are [in, out] in both, but [out, in] here, so they are transposed. Axis legend:
`V` vocabulary, `L` longest position, `T` segment types, `E` embedding, `H` hidden, `I` intermediate, `C` labels,
`2` and `1` the numbers. `E` is `H` unless the embeddings are projected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from configs.model import CLASSIFIER as SEQUENCE_CLASSIFIER
from configs.model import TOKEN_CLASSIFIER, BertConfig
from utils.errors import UserError, printable

State = dict[str, npt.NDArray[np.float32]]  # Hugging Face's names and shapes

GROUPS = (
    "encoder",
    "pooler",
    "masked-lm head",
    "next-sentence head",
    "question-answering head",
    "classifier",
    "discriminator head",  # ELECTRA's, which nothing here trains or asks, but which is kept
)
ENCODER, POOLER, MASKED_LM, NEXT_SENTENCE, SQUAD, CLASSIFIER, DISCRIMINATOR = GROUPS

_MOST_LAYERS = 1000  # a name in a file may contain any number


class Spelling(NamedTuple):
    """A parameter's name in one format, and whether the format stores it transposed."""

    name: str
    transposed: bool = False


class Row(NamedTuple):
    """One parameter: its canonical name, axes, and names in the other formats; the first name is used for writing."""

    name: str
    axes: str
    group: str
    tensorflow: tuple[Spelling, ...]
    lazy: tuple[Spelling, ...]

    def spellings(self, scheme: str) -> tuple[Spelling, ...]:
        return {"tf": self.tensorflow, "lazy": self.lazy}.get(scheme, (Spelling(self.name),))

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes)


def rows(layers: int) -> list[Row]:
    """Returns the table for an encoder with this many layers."""
    table = [
        _row("bert.embeddings.word_embeddings.weight", "VE", ENCODER, "bert/embeddings/word_embeddings"),
        _row("bert.embeddings.position_embeddings.weight", "LE", ENCODER, "bert/embeddings/position_embeddings"),
        _row("bert.embeddings.token_type_embeddings.weight", "TE", ENCODER, "bert/embeddings/token_type_embeddings"),
        *_norm("bert.embeddings.LayerNorm", ENCODER, "bert/embeddings/LayerNorm", "E"),
        *_dense("bert.embeddings.projection", "HE", ENCODER, "bert/embeddings/projection"),
    ]
    for i in range(layers):
        here, there = f"bert.encoder.layer.{i}", f"bert/encoder/layer_{i}"
        for part in ("query", "key", "value"):
            table += _dense(f"{here}.attention.self.{part}", "HH", ENCODER, f"{there}/attention/self/{part}")
        table += _dense(f"{here}.attention.output.dense", "HH", ENCODER, f"{there}/attention/output/dense")
        table += _norm(f"{here}.attention.output.LayerNorm", ENCODER, f"{there}/attention/output/LayerNorm")
        table += _dense(f"{here}.intermediate.dense", "IH", ENCODER, f"{there}/intermediate/dense")
        table += _dense(f"{here}.intermediate.gate", "IH", ENCODER, f"{there}/intermediate/gate")
        table += _dense(f"{here}.output.dense", "HI", ENCODER, f"{there}/output/dense")
        table += _norm(f"{here}.output.LayerNorm", ENCODER, f"{there}/output/LayerNorm")
    transform = "cls/predictions/transform"
    return [
        *table,
        *_norm("bert.encoder.LayerNorm", ENCODER, "bert/encoder/LayerNorm"),  # for variants, see BertConfig.final_norm
        *_dense("bert.pooler.dense", "HH", POOLER, "bert/pooler/dense"),
        *_norm("bert.pooler.LayerNorm", POOLER, "bert/pooler/LayerNorm"),
        *_dense("cls.predictions.transform.dense", "EH", MASKED_LM, f"{transform}/dense"),
        *_norm("cls.predictions.transform.LayerNorm", MASKED_LM, f"{transform}/LayerNorm", "E"),
        _row("cls.predictions.decoder.weight", "VE", MASKED_LM, "cls/predictions/output_weights"),
        _row("cls.predictions.bias", "V", MASKED_LM, "cls/predictions/output_bias"),
        *_head(
            "cls.seq_relationship", "2", NEXT_SENTENCE, "cls/seq_relationship/output", "cls-seq_relationship-output"
        ),
        *_head("qa_outputs", "2", SQUAD, "cls/squad/output", "cls-squad-output", lazy_is_dense=True),
        *_head("classifier", "C", CLASSIFIER, "output", "classification-output"),
        *_dense("discriminator_predictions.dense", "HH", DISCRIMINATOR, "discriminator_predictions/dense"),
        *_dense("discriminator_predictions.dense_prediction", "1H", DISCRIMINATOR, "discriminator_predictions/output"),
    ]


def _row(name: str, axes: str, group: str, tensorflow: str, transposed: bool = False) -> Row:
    lazy = tensorflow.replace("/", "-").replace("kernel", "weight")
    return Row(name, axes, group, (Spelling(tensorflow, transposed),), (Spelling(lazy, transposed),))


def _dense(name: str, axes: str, group: str, tensorflow: str) -> list[Row]:
    return [
        _row(f"{name}.weight", axes, group, f"{tensorflow}/kernel", transposed=True),
        _row(f"{name}.bias", axes[0], group, f"{tensorflow}/bias"),
    ]


def _norm(name: str, group: str, tensorflow: str, axis: str = "H") -> list[Row]:
    return [
        _row(f"{name}.weight", axis, group, f"{tensorflow}/gamma"),
        _row(f"{name}.bias", axis, group, f"{tensorflow}/beta"),
    ]


def _head(name: str, axis: str, group: str, tensorflow: str, lazy: str, lazy_is_dense: bool = False) -> list[Row]:
    """Rows of a head, [labels, hidden] in TensorFlow. Lazy scripts and converters used several names.

    `X-output_weights` is [labels, hidden]; `X-output-weight` comes from a dense layer and is [hidden, labels].
    """
    own, dense = Spelling(f"{lazy}_weights"), Spelling(f"{lazy}-weight", transposed=True)
    weights = [dense, own] if lazy_is_dense else [own, dense]
    biases = [Spelling(f"{lazy}-bias"), Spelling(f"{lazy}_bias")][:: 1 if lazy_is_dense else -1]
    short = lazy.removesuffix("-output")
    if group == CLASSIFIER:  # TensorFlow's classifier has no scope, and some converters kept its bare name
        weights.append(Spelling(f"{tensorflow}_weights"))
        biases.append(Spelling(f"{tensorflow}_bias"))
    weights.append(Spelling(f"{short}-weight"))
    biases.append(Spelling(f"{short}-bias"))
    return [
        Row(f"{name}.weight", f"{axis}H", group, (Spelling(f"{tensorflow}_weights"),), tuple(weights)),
        Row(f"{name}.bias", axis, group, (Spelling(f"{tensorflow}_bias"),), tuple(biases)),
    ]


def architecture(names: Iterable[str], *, labels_tokens: bool = False) -> str:
    """Returns the Hugging Face class for a set of canonical names; `labels_tokens` selects the token classifier."""
    heads = {row.group for row in rows(0) if row.name in set(names)}
    if SQUAD in heads:
        return "BertForQuestionAnswering"
    if CLASSIFIER in heads:
        return TOKEN_CLASSIFIER if labels_tokens else SEQUENCE_CLASSIFIER
    if {MASKED_LM, NEXT_SENTENCE} <= heads:
        return "BertForPreTraining"
    if MASKED_LM in heads:
        return "BertForMaskedLM"
    return "BertForNextSentencePrediction" if NEXT_SENTENCE in heads else "BertModel"


def to_scheme(state: State, scheme: str) -> State:
    """Converts canonical parameters to the names and orientation of a format."""
    stored = {}
    for row in rows(count_layers(state)):
        if row.name in state:
            name, transposed = row.spellings(scheme)[0]
            array = state[row.name]
            if scheme == "lazy" and row.axes == "LE":
                array = array[None]  # [1, L, H]
            stored[name] = np.ascontiguousarray(array.T if transposed else array)
    return stored


def count_layers(names: Iterable[str]) -> int:
    """Counts the encoder layers in a set of names of any format."""
    found = [int(match[1]) for name in names if (match := re.search(r"(?:^|[./-])layer[._](\d{1,9})[./-]", name))]
    layers = max(found, default=-1) + 1
    if layers > _MOST_LAYERS:
        raise UserError(f"a tensor's name refers to encoder layer {layers - 1}: this is not a BERT checkpoint.")
    return layers


_LEFT_OUT = {
    "tf": re.compile(
        r"(/adam_[mv]|/AdamWeightDecayOptimizer(_1)?|/Adam(_1)?|/lamb_[mv])$|^(global_step|loss_scale|beta[12]_power)"
    ),
    "lazy": re.compile(r"-[mv]$|^System-|^snapshot_done$"),
    "hf": re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$"),
}
_ALIASES = (  # older spellings of canonical names, tried in this order
    (re.compile(r"(?:^|(?<=\.))_orig_mod\."), ""),  # torch.compile's
    (re.compile(r"^((module|model)\.)+"), ""),
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
    (re.compile(r"^cls_squad\.(output\.)?"), "qa_outputs."),
    (re.compile(r"^cls\.predictions\.(output_bias|decoder\.bias)$"), "cls.predictions.bias"),
    (re.compile(r"^electra\."), ""),
    (re.compile(r"^(embeddings|encoder|pooler)\."), "bert."),  # a bare encoder
)
_TIED = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}


def is_left_out(name: str, scheme: str) -> bool:
    """Whether a stored tensor is not a parameter (optimizer slots, counters, index buffers)."""
    return bool(_LEFT_OUT["hf" if scheme == "oneflow" else scheme].search(name))


def canonical(name: str) -> str:
    """Returns the canonical form of a name in the hf or oneflow format."""
    for pattern, replacement in _ALIASES:
        if replacement == "bert." and pattern.search(name):
            return "bert." + name
        name = pattern.sub(replacement, name)
    return name


class Report(NamedTuple):
    """What happened to every tensor.

    Attributes:
        mapped: {stored name: canonical name}.
        missing: canonical names that were not found.
        unexpected: stored names that are not BERT's.
        mismatched: a sentence for each tensor that cannot be used.
        left_out: stored names that are not needed.
    """

    mapped: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.mapped)} tensors mapped, {len(self.left_out)} left out (optimizer state, duplicates)"]
        for title in ("missing", "unexpected", "mismatched"):
            names = getattr(self, title)
            shown = names[:10] + ([f"... and {len(names) - 10} more"] if len(names) > 10 else [])
            lines += [f"{len(names)} {title}" + "".join(f"\n  {name}" for name in shown)]
        return printable("\n".join(lines))

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched)


def from_scheme(
    stored: Mapping[str, np.ndarray], scheme: str, config: dict[str, object] | None = None, *, flat: bool = False
) -> tuple[BertConfig, State, Report]:
    """Finds the canonical parameters among tensors with a format's own names.

    Args:
        stored: the tensors under the format's names.
        scheme: "hf", "oneflow" (the same names), "tf" or "lazy".
        config: a configuration file's content; sizes that it lacks come from the tensors.
        flat: the tensors are stored without shapes (lazy directories without `meta`).

    Raises:
        UserError: there is no encoder, the number of heads is unknown, or a parameter is not floating-point.
    """
    untied = config is not None and config.get("tied_decoder") is False
    known, tied, unexpected, left_out, mismatched = _sorted(stored, scheme, {} if untied else _TIED)
    sizes, shape = _sizes(known, stored, config or {})
    state: State = {}
    for name, (row, spelling, source) in known.items():
        if not np.issubdtype(stored[source].dtype, np.floating):
            raise UserError(f"{source} has dtype {stored[source].dtype}, but floating-point numbers are needed.")
        array = _oriented(stored[source], row, spelling, sizes, flat)
        if array is None:
            want = row.shape(sizes)[:: -1 if spelling.transposed else 1]
            mismatched.append(
                f"{source} has shape {list(stored[source].shape)}, but the configuration needs {list(want)}"
            )
        else:
            state[name] = np.ascontiguousarray(array, dtype=np.float32)
    for source, twin in tied.items():
        same = twin in state and np.array_equal(stored[source].astype(np.float32), state[twin])
        (left_out if same else mismatched).append(
            source if same else f"{source} is not tied to {twin}, as BERT's must be"
        )

    groups = {ENCODER, *(row.group for row, _, _ in known.values())}
    reads_pooler = {NEXT_SENTENCE} if shape.labels_tokens else {NEXT_SENTENCE, CLASSIFIER}
    if groups & (reads_pooler | ({CLASSIFIER, SQUAD} if shape.token_head else set())):
        groups.add(POOLER)
    wanted = [
        row.name for row in rows(shape.num_hidden_layers) if row.group in groups and shape.has_parameter(row.name)
    ]
    missing = [name for name in wanted if name not in known]
    beyond = sorted(source for name, (_, _, source) in known.items() if name not in set(wanted))
    deeper = count_layers(known) > shape.num_hidden_layers
    why = f"is beyond the configuration's {shape.num_hidden_layers} layers" if deeper else "is not part of this model"
    mismatched += [f"{source} {why}" for source in beyond]
    state = {name: state[name] for name in wanted if name in state}
    mapped = {known[name][2]: name for name in state}
    return shape, state, Report(mapped, missing, unexpected, mismatched, left_out)


class _Sorted(NamedTuple):
    """A format's tensors, sorted by kind; see `Report` for the last three."""

    known: dict[str, tuple[Row, Spelling, str]]  # {canonical name: its row, spelling and stored name}
    tied: dict[str, str]  # {stored name: the canonical name of the parameter that it repeats}
    unexpected: list[str]
    left_out: list[str]
    mismatched: list[str]


def _sorted(stored: Mapping[str, np.ndarray], scheme: str, twins: Mapping[str, str]) -> _Sorted:
    index = {spelling.name: (row, spelling) for row in rows(count_layers(stored)) for spelling in row.spellings(scheme)}
    result = _Sorted({}, {}, [], [], [])
    known, tied, unexpected, left_out, mismatched = result
    for source in sorted(stored):
        name = canonical(source) if scheme in ("hf", "oneflow") else source
        if is_left_out(source, scheme):
            left_out.append(source)
        elif name in twins:
            tied[source] = twins[name]
        elif name in index:
            row, spelling = index[name]
            if row.name in known:
                same = np.array_equal(stored[known[row.name][2]], stored[source])
                (left_out if same else mismatched).append(
                    source if same else f"{source} differs from {known[row.name][2]}"
                )
            else:
                known[row.name] = (row, spelling, source)
        else:
            unexpected.append(source)
    return result


def _oriented(
    array: np.ndarray, row: Row, spelling: Spelling, sizes: Mapping[str, int], flat: bool
) -> np.ndarray | None:
    """The array in canonical orientation; None if its shape does not match the configuration."""
    want = row.shape(sizes)
    held = want[::-1] if spelling.transposed else want
    if (flat and array.size == math.prod(held)) or (row.axes == "LE" and array.shape == (1, *held)):
        array = array.reshape(held)
    if array.shape == held:
        return array.T if spelling.transposed else array
    # Lazy heads were written in both orientations under one name; the shape tells which, since no hidden size is 2.
    if row.group in (NEXT_SENTENCE, SQUAD, CLASSIFIER) and array.shape == held[::-1]:
        return array if spelling.transposed else array.T
    return None


def _sizes(
    known: Mapping[str, tuple[Row, Spelling, str]], stored: Mapping[str, np.ndarray], given: dict[str, object]
) -> tuple[dict[str, int], BertConfig]:
    """The axis sizes and the configuration, from `given` or else from the numbers of elements."""

    def count(name: str) -> int:
        return stored[known[name][2]].size if name in known else 0

    hidden = count("bert.encoder.layer.0.output.LayerNorm.weight") or count("bert.embeddings.LayerNorm.weight")
    words = count("bert.embeddings.word_embeddings.weight")
    if not hidden or not words:
        raise UserError(
            "the checkpoint contains no BERT encoder: bert.embeddings.word_embeddings or bert.embeddings.LayerNorm was "
            f"not found under any known name (the first tensor is {min(stored, default='missing')!r:.100})."
        )
    width = given.get("embedding_size") or hidden
    if not isinstance(width, int) or width < 1:
        raise UserError(f"embedding_size must be a number above 0, not {width!r:.60}.")
    found: dict[str, object] = {
        "vocab_size": words // width,
        "hidden_size": hidden,
        "num_hidden_layers": count_layers(known),
        "intermediate_size": count("bert.encoder.layer.0.intermediate.dense.weight") // hidden or 4 * hidden,
        "max_position_embeddings": count("bert.embeddings.position_embeddings.weight") // width or 512,
        "type_vocab_size": count("bert.embeddings.token_type_embeddings.weight") // width or 2,
    }
    if "num_attention_heads" not in given:
        head_size = given.get("hidden_size_per_head", 64)
        if not isinstance(head_size, int) or head_size < 1 or hidden % head_size:
            raise UserError(
                f"the number of attention heads is unknown (the hidden size is {hidden}): pass the model's "
                "configuration file (convert_checkpoint.py --config, run_infer.py --num_attention_heads)."
            )
        found["num_attention_heads"] = hidden // head_size
    if "bert.encoder.LayerNorm.weight" in known:
        found["final_norm"] = True
    if "classifier.bias" in known:
        found["num_labels"] = count("classifier.bias")
    config = BertConfig.from_dict({**found, **given})
    sizes = {
        "V": config.vocab_size,
        "L": config.max_position_embeddings + config.position_offset,
        "T": config.type_vocab_size,
        "E": config.embedding_width,
        "H": config.hidden_size,
        "I": config.intermediate_size,
        "C": config.num_labels,
    }
    return sizes, config
