"""BERT's shape: the model configuration, its presets and its flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from configs.checks import MOST_TOKENS, at_least, at_most
from configs.cli import flag
from utils.errors import UserError
from utils.json_file import read_settings
from utils.messages import warn

# Google's published sizes: (num_hidden_layers, hidden_size). Heads are 64 wide, the intermediate size is 4 x hidden.
PRESETS = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
# A simplified base size that trains stably in a single pass over the data.
MINIMAL_NAME = "bert-minimal"
MINIMAL: dict[str, Any] = {
    "norm": "pre",
    "final_norm": True,
    "linear_bias": False,
    "position_embeddings": "sinusoidal",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# ModernBERT (Warner et al. 2024): rotary positions, gated layers without biases, and two layers of three that attend
# to a window of 128 tokens.
MODERN: dict[str, Any] = {
    "norm": "pre",
    "final_norm": True,
    "first_norm": False,
    "linear_bias": False,
    "norm_bias": False,
    "position_embeddings": "rotary",
    "rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "attention_window": 128,
    "feed_forward": "gated",
    "segment_embeddings": False,
    "pooler_activation": "gelu",
    "pooler_norm": True,
    "token_head": True,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# MosaicBERT (Portes et al. 2023): ALiBi and gated layers in BERT-base.
MOSAIC: dict[str, Any] = {
    "position_embeddings": "alibi",
    "feed_forward": "gated",
    "attention_probs_dropout_prob": 0.0,
}


class Preset(NamedTuple):
    """A named model: its sizes, and the fields in which it differs from BERT."""

    layers: int
    hidden: int
    intermediate: int
    fields: Mapping[str, Any] = MappingProxyType({})


SIZES = {
    **{name: Preset(layers, hidden, 4 * hidden) for name, (layers, hidden) in PRESETS.items()},
    MINIMAL_NAME: Preset(12, 768, 3072, MINIMAL),
    "modernbert-tiny": Preset(4, 128, 192, MODERN),
    "modernbert-base": Preset(22, 768, 1152, MODERN),
    "modernbert-large": Preset(28, 1024, 2624, MODERN),
    "mosaicbert-tiny": Preset(2, 128, 512, MOSAIC),
    "mosaicbert-base": Preset(12, 768, 3072, MOSAIC),
}
# {value of --activation: Hugging Face's names of the function}; the first one is written.
ACTIVATIONS = {"gelu": ("gelu",), "gelu_tanh": ("gelu_pytorch_tanh", "gelu_new"), "relu": ("relu",), "silu": ("silu",)}
CLASSIFIER, TOKEN_CLASSIFIER = "BertForSequenceClassification", "BertForTokenClassification"  # Hugging Face's classes
# Which part of a text that is too long a classifier reads.
LongText = Literal["truncate_tail", "truncate_head", "head_tail", "windows"]
LONG_ROW = 512  # tokens; attention in rows of this length and longer keeps no matrix of scores on a CPU
_HIDDEN_ACTS = [name for names in ACTIVATIONS.values() for name in names]
_CHOICES = {
    "norm": ("post", "pre"),
    "norm_type": ("layer", "rms"),
    "position_embeddings": ("learned", "sinusoidal", "rotary", "alibi"),
    "feed_forward": ("dense", "gated"),
    "pooler_activation": ("tanh", "gelu", "relu", "gelu_pytorch_tanh", "gelu_new", "silu"),
    "classifier_pooling": ("cls", "mean"),
    "transform_activation": ("", *_HIDDEN_ACTS),
}
# Fields with a flag of the same name.
_FLAGS = (
    "norm",
    "norm_type",
    "norm_bias",
    "embedding_norm",
    "first_norm",
    "final_norm",
    "linear_bias",
    "position_embeddings",
    "rope_theta",
    "local_rope_theta",
    "segment_embeddings",
    "attention_window",
    "global_attention_every",
    "feed_forward",
    "tied_decoder",
)
# Fields of BertConfig that BERT itself does not have. Their defaults describe BERT.
VARIANTS = (
    *_FLAGS,
    "decoder_bias",
    "position_offset",
    "embedding_size",
    "pooler_activation",
    "pooler_norm",
    "classifier_pooling",
    "token_head",
    "transform_activation",
)
_LINEAR = ("query", "key", "value", "dense", "gate")
# Limits far above any BERT, so that a damaged config.json causes a clear error instead of a crash in the framework.
# Arrays of these sizes are allocated before any tensor can contradict them, so they must fit in memory.
_MOST = {
    "vocab_size": 10**7,
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1000,
    "num_attention_heads": 1 << 12,
    "intermediate_size": 1 << 18,
    "max_position_embeddings": MOST_TOKENS,
    "type_vocab_size": 1 << 16,
    "num_labels": 10**6,
}


def _unnamed(labels: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(labels))


_BERT_TYPES = ("bert", "bert-variant", "electra")


def check_is_bert(settings: Mapping[str, Any]) -> None:
    """Raises UserError if the content of config.json describes a model other than BERT."""
    kind, architectures = settings.get("model_type"), settings.get("architectures")
    if kind is None and isinstance(architectures, list) and architectures:
        kind = "bert" if str(architectures[0]).startswith("Bert") else architectures[0]
    if kind not in (None, *_BERT_TYPES):
        raise UserError(
            f"the model is of type {kind!r:.60}, which is not supported: use BERT, ModernBERT, RoBERTa, DistilBERT or "
            "ELECTRA."
        )
    for name in ("is_decoder", "add_cross_attention"):
        if settings.get(name):
            raise UserError(f"the model is a decoder ({name} is set in config.json), but only encoders are supported.")
    positions = settings.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise UserError(f"the model has {positions!r:.60} position embeddings, but only 'absolute' is supported.")


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", tuple: "a list"}


@dataclass(frozen=True)
class BertConfig:
    """The model's shape, in the names of Hugging Face's config.json. The defaults are those of BERT-base."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2
    label_names: tuple[str, ...] = ()  # a classifier's label names, `id2label` in config.json; () if unnamed
    problem_type: str = ""  # "regression", "multi_label_classification", or "" for exactly one label
    labels_tokens: bool = False  # whether the classifier labels tokens (BertForTokenClassification) instead of texts
    long_text: str = ""  # of a classifier: how it reads texts that are too long, a `LongText`; "": unknown
    max_seq_length: int = 0  # of a classifier: the input length it was trained with; 0: unknown
    norm: str = "post"  # or "pre": LayerNorm before attention and feed-forward instead of after
    embedding_norm: bool = True
    final_norm: bool = False  # a LayerNorm after the last layer
    linear_bias: bool = True  # in the encoder, the pooler and the masked-LM transform
    position_embeddings: str = "learned"  # or "sinusoidal": fixed; "rotary"; "alibi"
    norm_type: str = "layer"  # or "rms": RMSNorm instead of every LayerNorm
    norm_bias: bool = True  # in every LayerNorm
    first_norm: bool = True  # with `norm` "pre": whether the first layer's attention has its LayerNorm
    rope_theta: float = 10000.0  # base of the rotary angles
    local_rope_theta: float = 0.0  # that of layers with a window; 0: `rope_theta`
    attention_window: int = 0  # tokens that a local layer attends to, half of them to each side; 0: all layers global
    global_attention_every: int = 3  # with a window: layers 0, n, 2n, … attend to the whole sequence
    feed_forward: str = "dense"  # or "gated": activation(dense(x)) * gate(x) (Shazeer 2020)
    segment_embeddings: bool = True
    tied_decoder: bool = True  # whether the masked-LM decoder shares its matrix with the word embeddings
    decoder_bias: bool = True
    position_offset: int = 0  # row of the position embeddings that the first token has (RoBERTa: 2)
    embedding_size: int = 0  # width of the embeddings if they are projected to the hidden size (ELECTRA); 0: the same
    pooler_activation: str = "tanh"
    pooler_norm: bool = False  # a LayerNorm after the pooler's activation
    classifier_pooling: str = "cls"  # what the pooler reads: the first token, or "mean": the mean of all tokens
    token_head: bool = False  # whether token classifiers and span heads read the pooler's output for each token
    transform_activation: str = ""  # of the masked-LM head; "": `hidden_act`

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {str(getattr(self, name))[:20]}.")
            if getattr(self, name) > most:
                raise UserError(f"--{name} must be at most {most:,}.")
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 <= getattr(self, name) < 1:  # NaN included
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(f"pad_token_id {self.pad_token_id} is not an id of the {self.vocab_size} tokens.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"--num_attention_heads {self.num_attention_heads} must divide the hidden size {self.hidden_size}: "
                "choose another number of heads or --hidden_size_per_head."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        if self.hidden_act not in _HIDDEN_ACTS:
            raise UserError(
                f"hidden_act {self.hidden_act!r:.60} is not supported: --activation can be {', '.join(ACTIVATIONS)}."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} must be {' or '.join(choices)}, not {getattr(self, name)!r:.60}.")
        self._check_variant()

    def _check_variant(self) -> None:
        """Raises UserError where the fields of a variant are out of range or contradict each other."""
        if self.position_embeddings == "rotary" and self.head_size % 2:
            raise UserError(
                f"--position_embeddings rotary needs an even head size, not {self.head_size}: choose another "
                "--hidden_size_per_head or number of heads."
            )
        if not 0 < self.rope_theta < 1e12:
            raise UserError(f"--rope_theta must be above 0 and below 1e12, not {self.rope_theta}.")
        if not 0 <= self.local_rope_theta < 1e12:
            raise UserError(f"--local_rope_theta must be at least 0 and below 1e12, not {self.local_rope_theta}.")
        if self.attention_window and not 2 <= self.attention_window <= MOST_TOKENS:
            raise UserError(f"--attention_window must be 0 or from 2 to {MOST_TOKENS:,}, not {self.attention_window}.")
        for name, least in (("global_attention_every", 1), ("position_offset", 0), ("embedding_size", 0)):
            if not least <= getattr(self, name) <= _MOST["hidden_size"]:
                raise UserError(f"{name} must be from {least} to {_MOST['hidden_size']:,}, not {getattr(self, name)}.")
        if not self.first_norm and self.norm != "pre":
            raise UserError("--first_norm False needs --norm pre: with --norm post, every layer has this LayerNorm.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BertConfig:
        """Builds the configuration from config.json's content; null means the default, and irrelevant keys are ignored.

        Raises:
            UserError: it describes a model other than BERT, or a value is out of range.
        """
        check_is_bert(values)
        values = {name: value for name, value in values.items() if value is not None}
        if values.get("embedding_size") == values.get("hidden_size", cls.hidden_size):
            values["embedding_size"] = 0  # ELECTRA's name for embeddings that are not projected
        known = {field.name for field in dataclasses.fields(cls)}
        names = values.get("id2label")
        names = names if isinstance(names, dict) else {}
        labels = values.get("num_labels", len(names) or cls.num_labels)
        named = names.keys() == set(map(str, range(len(names)))) and len(names) == labels
        ordered = tuple(str(names[str(i)]) for i in range(labels)) if named else ()
        values = {
            **values,
            "num_labels": labels,
            "label_names": () if ordered == _unnamed(len(ordered)) else ordered,
            "problem_type": values.get("problem_type") or "",
            "labels_tokens": values.get("architectures") == [TOKEN_CLASSIFIER],
        }
        kept = {key: value for key, value in values.items() if key in known}
        for field in dataclasses.fields(cls):
            kind = type(field.default)
            value = kept.get(field.name, field.default)
            if kind is float and isinstance(value, int) and abs(value) < 1 << 31:
                kept[field.name] = value = float(value)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise UserError(f"{field.name} in config.json must be {_KIND_NAMES[kind]}, not {value!r:.60}.")
        return cls(**kept)

    @classmethod
    def from_json(cls, path: Path) -> BertConfig:
        """Reads a config.json; raises UserError if it is missing or unreadable."""
        return cls.from_dict(read_settings(path))

    @property
    def shown_labels(self) -> tuple[str, ...]:
        """The label names of a classifier, or Hugging Face's LABEL_0, … if the labels are unnamed."""
        return self.label_names or _unnamed(self.num_labels)

    @property
    def is_regression(self) -> bool:
        """Whether the classifier predicts a number."""
        return self.problem_type == "regression" or (self.num_labels == 1 and not self.problem_type)

    @property
    def segment_bound(self) -> int:
        """Segment ids must be below it. A model with one segment type, or with none, ignores them."""
        return self.type_vocab_size if self.segment_embeddings and self.type_vocab_size > 1 else 2

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Features of the embeddings before their projection, if there is one."""
        return self.embedding_size or self.hidden_size

    @property
    def has_position_table(self) -> bool:
        """Whether positions are vectors that are added to the words'."""
        return self.position_embeddings in ("learned", "sinusoidal")

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends to a window instead of the whole sequence."""
        return bool(self.attention_window) and layer % self.global_attention_every != 0

    @property
    def is_variant(self) -> bool:
        """Whether the encoder differs from BERT's, so that other programs would compute wrong results."""
        return any(
            getattr(self, field.name) != field.default for field in dataclasses.fields(self) if field.name in VARIANTS
        )

    @property
    def is_extended(self) -> bool:
        """Whether the encoder needs operations that the ONNX export does not support."""
        simple = ("norm", "embedding_norm", "final_norm", "linear_bias", "position_embeddings")
        plain = BertConfig(**{name: getattr(self, name) for name in simple} if self.has_position_table else {})
        return not self.has_position_table or any(
            getattr(self, name) != getattr(plain, name) for name in (*VARIANTS, "hidden_act")
        )

    def has_parameter(self, name: str) -> bool:
        """Whether this model's encoder and masked-LM transform contain a parameter that BERT or a variant has."""
        module, kind = name.rsplit(".", 1)
        optional = {
            "bert.encoder.LayerNorm": self.final_norm,
            "bert.embeddings.LayerNorm": self.embedding_norm,
            "bert.embeddings.position_embeddings": self.has_position_table,
            "bert.embeddings.token_type_embeddings": self.segment_embeddings,
            "bert.embeddings.projection": bool(self.embedding_size),
            "bert.encoder.layer.0.attention.output.LayerNorm": self.first_norm,
            "bert.pooler.LayerNorm": self.pooler_norm,
            "cls.predictions.decoder": not self.tied_decoder,
        }
        if not optional.get(module, True) or (module.endswith(".gate") and self.feed_forward != "gated"):
            return False
        if kind != "bias":
            return True
        if module.endswith("LayerNorm"):
            return self.norm_bias and self.norm_type == "layer"
        if module == "cls.predictions":
            return self.decoder_bias
        return self.linear_bias or module.split(".")[-1] not in _LINEAR

    def forward_flops(self, seq_length: int, predictions: int = 0) -> int:
        """Floating-point operations of the forward pass's matrix products for one sequence.

        Training needs three times as many.

        Args:
            seq_length: tokens of the sequence.
            predictions: positions that the masked-LM head decodes.
        """
        hidden, inner = self.hidden_size, self.intermediate_size
        matrices = 3 if self.feed_forward == "gated" else 2
        local = sum(map(self.is_local, range(self.num_hidden_layers))) / self.num_hidden_layers
        seen = seq_length - local * max(0, seq_length - self.attention_window - 1)  # mean of the layers
        token = 8 * hidden * hidden + 2 * matrices * hidden * inner + int(4 * seen * hidden)
        head = 2 * hidden * hidden + 2 * hidden * self.vocab_size
        return self.num_hidden_layers * seq_length * token + predictions * head + 2 * hidden * hidden

    def to_huggingface(self, architecture: str) -> dict[str, Any]:
        """The content of config.json, as Hugging Face transformers reads it."""
        values = dataclasses.asdict(self)
        names = self.shown_labels
        reading = {name: values.pop(name) for name in ("long_text", "max_seq_length") if values[name]}
        for name in ("num_labels", "label_names", "problem_type", "labels_tokens", "long_text", "max_seq_length"):
            values.pop(name, None)
        kind = "bert-variant" if self.is_variant else "bert"  # transformers must not load a variant as BERT
        for field in dataclasses.fields(self):
            if field.name in VARIANTS and values[field.name] == field.default:
                del values[field.name]
        if architecture in (CLASSIFIER, TOKEN_CLASSIFIER):
            values |= reading
            values["id2label"] = {str(i): name for i, name in enumerate(names)}
            values["label2id"] = {name: i for i, name in enumerate(names)}
            values |= {"problem_type": self.problem_type} if self.problem_type else {}
        return {"architectures": [architecture], "model_type": kind, **values, "torch_dtype": "float32"}


def _default(value: str) -> str:
    return f"the checkpoint's, else {value}"


@dataclass(frozen=True)
class ModelFlags:
    """Model."""

    init_checkpoint: str | None = flag(
        None,
        "start from these weights: a model directory or a run's output directory",
        default_text="random weights",
        aliases=("model_load_dir", "model_name_or_path"),
        metavar="MODEL",
    )
    model_size: str | None = flag(
        None,
        "one of Google's sizes, bert-minimal (base size, pre-LayerNorm, sinusoidal positions, no biases, no dropout), "
        "or a size of ModernBERT or MosaicBERT; flags for single settings override it",
        default_text="the checkpoint's, else large",
        choices=tuple(SIZES),
    )
    num_hidden_layers: int | None = flag(None, "encoder layers", default_text=_default("24"))
    num_attention_heads: int | None = flag(None, "attention heads", default_text=_default("16"))
    hidden_size_per_head: int | None = flag(
        None, "head size; the hidden size is this times the heads", default_text=_default("64")
    )
    intermediate_size: int | None = flag(
        None, "size of the feed-forward layer", default_text=_default("4 x hidden size")
    )
    max_position_embeddings: int | None = flag(
        None, "longest sequence that the model accepts", default_text=_default("512"), unit="tokens"
    )
    vocab_size: int | None = flag(None, "entries of the vocabulary", default_text=_default("the data's, else 30522"))
    type_vocab_size: int | None = flag(None, "segment types", default_text=_default("2"))
    attention_probs_dropout_prob: float | None = flag(
        None, "dropout on attention probabilities", default_text=_default("0.1")
    )
    hidden_dropout_prob: float | None = flag(None, "dropout on hidden states", default_text=_default("0.1"))
    norm: str | None = flag(
        None,
        "LayerNorm after or before attention and feed-forward",
        default_text=_default("post"),
        choices=("post", "pre"),
    )
    embedding_norm: bool | None = flag(None, "LayerNorm on the embeddings", default_text=_default("True"))
    final_norm: bool | None = flag(None, "LayerNorm after the last layer", default_text=_default("False"))
    first_norm: bool | None = flag(
        None, "LayerNorm before the first layer's attention, with --norm pre", default_text=_default("True")
    )
    norm_type: str | None = flag(
        None,
        "LayerNorm, or RMSNorm in place of every LayerNorm",
        default_text=_default("layer"),
        choices=_CHOICES["norm_type"],
    )
    norm_bias: bool | None = flag(None, "biases in every LayerNorm", default_text=_default("True"))
    linear_bias: bool | None = flag(None, "biases in the encoder's linear layers", default_text=_default("True"))
    position_embeddings: str | None = flag(
        None,
        "trained position embeddings, fixed sines and cosines, rotated queries and keys (RoPE), or attention scores "
        "that decrease with distance (ALiBi)",
        default_text=_default("learned"),
        choices=_CHOICES["position_embeddings"],
    )
    rope_theta: float | None = flag(None, "base of the rotary angles", default_text=_default("10000"))
    local_rope_theta: float | None = flag(
        None, "base of the rotary angles in local layers; 0: --rope_theta", default_text=_default("0")
    )
    segment_embeddings: bool | None = flag(None, "segment (token type) embeddings", default_text=_default("True"))
    attention_window: int | None = flag(
        None,
        "width of the window that each token attends to in local layers, half of it on each side; 0: every layer "
        "attends to the whole sequence",
        default_text=_default("0"),
        unit="tokens",
    )
    global_attention_every: int | None = flag(
        None,
        "with --attention_window: every n-th layer, starting with the first, attends to the whole sequence",
        default_text=_default("3"),
        unit="layers",
    )
    activation: str | None = flag(
        None,
        "activation of the feed-forward layers and the masked-LM head",
        default_text=_default("gelu"),
        choices=tuple(ACTIVATIONS),
    )
    feed_forward: str | None = flag(
        None,
        "plain feed-forward layers, or gated ones (GeGLU, SwiGLU or ReGLU, depending on --activation)",
        default_text=_default("dense"),
        choices=_CHOICES["feed_forward"],
    )
    tied_decoder: bool | None = flag(
        None, "share the matrix of the masked-LM decoder with the word embeddings", default_text=_default("True")
    )

    reinit_layers: int = flag(
        0,
        "initialize the pooler and this many of the highest encoder layers randomly instead of from the checkpoint",
        unit="layers",
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "reinit_layers")
        limits = {name: most for name, most in _MOST.items() if hasattr(self, name)}
        for name, most in {**limits, "hidden_size_per_head": 1 << 12}.items():
            at_least(self, 1, name)
            at_most(self, most, name)

    def bert_config(self, base: BertConfig | None = None, *, vocab_size: int | None = None) -> BertConfig:
        """The model that these flags describe.

        Args:
            base: the configuration of the weights to start from; flags can change only its dropout.
            vocab_size: the data's; used if neither `base` nor a flag sets it.

        Raises:
            UserError: a flag contradicts `base`, or the sizes contradict each other.
        """
        if base is not None:
            return self._checked_against(base)
        preset = SIZES[self.model_size or "large"]
        hidden = preset.hidden
        head_size = 64 if self.hidden_size_per_head is None else self.hidden_size_per_head
        heads = hidden // 64 if self.num_attention_heads is None else self.num_attention_heads
        if not self.model_size or self.hidden_size_per_head is not None:
            hidden = heads * head_size
        given = {
            "vocab_size": vocab_size if self.vocab_size is None else self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "attention_probs_dropout_prob": self.attention_probs_dropout_prob,
            "hidden_dropout_prob": self.hidden_dropout_prob,
            **self._variant,
        }
        inner = preset.intermediate if hidden == preset.hidden else 4 * hidden
        config = BertConfig(
            hidden_size=hidden,
            num_hidden_layers=self.num_hidden_layers if self.num_hidden_layers is not None else preset.layers,
            num_attention_heads=heads,
            intermediate_size=inner if self.intermediate_size is None else self.intermediate_size,
            **{**preset.fields, **{name: value for name, value in given.items() if value is not None}},
        )
        self._check_window(config)
        return config

    @property
    def _variant(self) -> dict[str, Any]:
        """The fields of `BertConfig` that flags for variants set; None where a flag is left out."""
        given = {name: getattr(self, name) for name in _FLAGS}
        return given | {"hidden_act": ACTIVATIONS[self.activation][0] if self.activation else None}

    def _check_window(self, config: BertConfig) -> None:
        """Warns if the window has no effect, or if every layer but the first is local."""
        if not config.attention_window:
            if self.global_attention_every is not None:
                raise UserError(
                    "--global_attention_every needs --attention_window, the window of the other layers: set it, or "
                    "omit both."
                )
            return
        if config.attention_window // 2 >= config.max_position_embeddings - 1:
            warn(
                f"--attention_window {config.attention_window} is wider than the {config.max_position_embeddings} "
                "positions, so every layer attends to the whole sequence."
            )
        if 1 < config.num_hidden_layers <= config.global_attention_every:
            warn(
                f"--global_attention_every {config.global_attention_every} leaves only the first of "
                f"{config.num_hidden_layers} layers global: lower it, so that later layers are global too."
            )

    def _checked_against(self, base: BertConfig) -> BertConfig:
        preset = SIZES.get(self.model_size or "")
        size: dict[str, Any] = {}
        if preset:
            size = {"num_hidden_layers": preset.layers, "hidden_size": preset.hidden}
            size |= {name: value for name, value in preset.fields.items() if name in _FLAGS}
        asked = {
            "num_hidden_layers": self.num_hidden_layers,
            "hidden_size": self.hidden_size_per_head and base.num_attention_heads * self.hidden_size_per_head,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "vocab_size": self.vocab_size,
            "type_vocab_size": self.type_vocab_size,
            **self._variant,
        }
        for name, value in asked.items():
            flag_name = {"hidden_size": "hidden_size_per_head", "hidden_act": "activation"}.get(name, name)
            if value is None and size.get(name) is not None:
                flag_name, value = f"model_size {self.model_size}", size[name]
            if value is not None and value != getattr(base, name):
                raise UserError(
                    f"--{flag_name} asks for {name} {value}, but the weights to start from have "
                    f"{getattr(base, name)}: omit the flag, or start from other weights."
                )
        dropout = {
            name: getattr(self, name)
            for name in ("attention_probs_dropout_prob", "hidden_dropout_prob")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(base, **dropout)
