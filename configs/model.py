"""BERT's shape: the model configuration, its presets and its flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.checks import MOST_TOKENS, at_least, at_most
from configs.cli import flag
from utils.errors import UserError
from utils.json_file import read_settings

# Google's published sizes: (num_hidden_layers, hidden_size). Heads are 64 wide, the intermediate size is 4 x hidden.
PRESETS = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
# A simplified variant of base that trains stably in a single pass over the data.
MINIMAL_NAME = "bert-minimal"
MINIMAL: dict[str, Any] = {
    "norm": "pre",
    "final_norm": True,
    "linear_bias": False,
    "position_embeddings": "sinusoidal",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
CLASSIFIER, TOKEN_CLASSIFIER = "BertForSequenceClassification", "BertForTokenClassification"  # Hugging Face's classes
# Which part of a text that is too long a classifier reads.
LongText = Literal["truncate_tail", "truncate_head", "head_tail", "windows"]
# Fields of BertConfig that BERT itself does not have. Their defaults are what BERT does.
LONG_ROW = 512  # tokens; attention in rows of this length and longer keeps no matrix of scores on a CPU
VARIANTS = ("norm", "embedding_norm", "final_norm", "linear_bias", "position_embeddings")


_LINEAR = ("query", "key", "value", "dense")
# Limits far above any BERT, so that a damaged config.json causes a clear error instead of a crash in the framework.
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


# Arrays of these sizes are allocated before any tensor can contradict them, so they must fit in memory.
_BERT_TYPES = ("bert", "bert-variant", "electra")


def check_is_bert(settings: Mapping[str, Any]) -> None:
    """Raises UserError if the content of config.json describes a model other than BERT."""
    kind, architectures = settings.get("model_type"), settings.get("architectures")
    if kind is None and isinstance(architectures, list) and architectures:
        kind = "bert" if str(architectures[0]).startswith("Bert") else architectures[0]
    if kind not in (None, *_BERT_TYPES):
        raise UserError(f"the model is of type {kind!r:.60}, and only 'bert' is supported: use a BERT model.")
    if kind == "electra" and settings.get("embedding_size", 128) != settings.get("hidden_size", 256):
        raise UserError("the model's embeddings have another size than its layers, which is not supported.")
    for name in ("is_decoder", "add_cross_attention"):
        if settings.get(name):
            raise UserError(f"the model is a decoder ({name} is set in config.json), and only encoders are supported.")
    positions = settings.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise UserError(f"the model has {positions!r:.60} position embeddings, and only 'absolute' is supported.")


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
    position_embeddings: str = "learned"  # or "sinusoidal": fixed

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
        if self.hidden_act != "gelu":
            raise UserError(f"hidden_act {self.hidden_act!r} is not supported: use 'gelu', the exact form with erf.")

        for name, choices in (("norm", ("post", "pre")), ("position_embeddings", ("learned", "sinusoidal"))):
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} must be {' or '.join(choices)}, not {getattr(self, name)}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BertConfig:
        """Builds the configuration from config.json's content; null means the default, and irrelevant keys are ignored.

        Raises:
            UserError: it describes a model other than BERT, or a value is out of range.
        """
        check_is_bert(values)
        values = {name: value for name, value in values.items() if value is not None}
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
    def is_variant(self) -> bool:
        """Whether the encoder differs from BERT's, so that other programs would compute wrong results."""
        return any(
            getattr(self, field.name) != field.default for field in dataclasses.fields(self) if field.name in VARIANTS
        )

    def has_parameter(self, name: str) -> bool:
        """Whether this model's encoder and masked-LM transform contain a parameter that BERT or a variant has."""
        if name.startswith("bert.encoder.LayerNorm."):
            return self.final_norm
        if name.startswith("bert.embeddings.LayerNorm."):
            return self.embedding_norm
        return self.linear_bias or name.split(".")[-2:] not in [[part, "bias"] for part in _LINEAR]

    def forward_flops(self, seq_length: int, predictions: int = 0) -> int:
        """Floating-point operations of the forward pass's matrix products for one sequence.

        Training needs three times as many.

        Args:
            seq_length: tokens of the sequence.
            predictions: positions that the masked-LM head decodes.
        """
        hidden, inner = self.hidden_size, self.intermediate_size
        token = 8 * hidden * hidden + 4 * hidden * inner + 4 * seq_length * hidden
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
        "one of Google's sizes, or bert-minimal (base size, pre-LayerNorm, sinusoidal positions, no biases, no "
        "dropout); flags for single sizes override it",
        default_text="the checkpoint's, else large",
        choices=(*PRESETS, MINIMAL_NAME),
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
    linear_bias: bool | None = flag(None, "biases in the encoder's linear layers", default_text=_default("True"))
    position_embeddings: str | None = flag(
        None,
        "trained position embeddings, or fixed sines and cosines",
        default_text=_default("learned"),
        choices=("learned", "sinusoidal"),
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
        layers, hidden = self._preset or (24, 1024)
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
            **{name: getattr(self, name) for name in VARIANTS},
        }
        minimal = MINIMAL if self.model_size == MINIMAL_NAME else {}
        return BertConfig(
            hidden_size=hidden,
            num_hidden_layers=self.num_hidden_layers if self.num_hidden_layers is not None else layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden if self.intermediate_size is None else self.intermediate_size,
            **{**minimal, **{name: value for name, value in given.items() if value is not None}},
        )

    @property
    def _preset(self) -> tuple[int, int] | None:
        return PRESETS.get("base" if self.model_size == MINIMAL_NAME else self.model_size or "")

    def _checked_against(self, base: BertConfig) -> BertConfig:
        layers, hidden = self._preset or (None, None)
        size = {"num_hidden_layers": layers, "hidden_size": hidden}
        if self.model_size == MINIMAL_NAME:
            size |= {name: MINIMAL[name] for name in VARIANTS if name in MINIMAL}
        asked = {
            "num_hidden_layers": self.num_hidden_layers,
            "hidden_size": self.hidden_size_per_head and base.num_attention_heads * self.hidden_size_per_head,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "vocab_size": self.vocab_size,
            "type_vocab_size": self.type_vocab_size,
            **{name: getattr(self, name) for name in VARIANTS},
        }
        for name, value in asked.items():
            flag_name = {"hidden_size": "hidden_size_per_head"}.get(name, name)
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
