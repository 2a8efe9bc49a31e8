"""Maps the configurations and tensors of other Hugging Face encoders to BERT's.

ModernBERT, RoBERTa, DistilBERT and ELECTRA are variants of BERT's encoder (configs/model.py) under other names. Reading
translates config.json and the tensors to this project's names, and writing does the reverse. All other code knows only
`BertConfig` and BERT's names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.model import MODERN, BertConfig
from conversion.names import DISCRIMINATOR, State, rows
from utils.errors import UserError

Settings = dict[str, Any]
Names = Mapping[str, tuple[str, ...]]  # {name in the file: BERT's name}; several where one tensor holds them all

_TOKEN, _SEQUENCE, _SPAN, _MASKED = (
    "ForTokenClassification",
    "ForSequenceClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)
_PRETRAINING, _BARE = "ForPreTraining", "Model"
# The tasks of BERT's classes that have another name in the other families.
_TASKS = {"ForNextSentencePrediction": _BARE, _PRETRAINING: _MASKED}
_POOLER, _CLASSIFIER, _QA = "bert.pooler.dense", "classifier", "qa_outputs"
_TRANSFORM, _TRANSFORM_NORM = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
_DECODER, _DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.bias"
# Settings of config.json that are copied, although nothing here reads them.
TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "tokenizer_class")


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
        classes: what the names of its classes begin with.
        base: what the names of the encoder's tensors begin with.
        layers: what the names of a layer's tensors begin with, before the layer's number.
        embeddings: modules outside the layers.
        layer: modules of a layer.
        heads: {class without `classes`: its modules and tensors}.
        read: BertConfig's fields from config.json and the class without `classes`.
        write: config.json from a BertConfig.
    """

    classes: str
    base: str
    layers: str
    embeddings: Names
    layer: Names
    heads: Mapping[str, Names]
    read: Callable[[Settings, str], Settings]
    write: Callable[[BertConfig], Settings]

    def canonical(self, name: str, head: str) -> tuple[str, ...]:
        """The BERT names of a tensor's contents; () if the tensor is not part of the model."""
        if re.match(rf"({self.layers}|embeddings(_project)?|final_norm|pooler)\.", name):  # of a class without a head
            name = f"{self.base}.{name}"
        layer = re.match(rf"{self.base}\.{self.layers}\.(\d{{1,9}})\.(.+)", name)
        if layer:
            module, _, kind = layer[2].rpartition(".")
            return tuple(f"bert.encoder.layer.{layer[1]}.{own}.{kind}" for own in self.layer.get(module, ()))
        module, _, kind = name.rpartition(".")
        known = {**self.embeddings, **self.heads.get(head, {})}
        return known.get(name) or tuple(f"{own}.{kind}" for own in known.get(module, ()))

    def names(self, layers: int, head: str) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Yields (name in the file, BERT's names) for every tensor that such a model may have."""
        own = {row.name for row in rows(layers)}
        modules = {**self.embeddings, **self.heads[head]}
        for number in range(layers):
            modules |= {
                f"{self.base}.{self.layers}.{number}.{name}": tuple(f"bert.encoder.layer.{number}.{o}" for o in owns)
                for name, owns in self.layer.items()
            }
        for name, owns in modules.items():
            if set(owns) <= own:
                yield name, owns
            else:
                yield from ((f"{name}.{kind}", tuple(f"{o}.{kind}" for o in owns)) for kind in ("weight", "bias"))


def find(settings: Settings) -> tuple[str, Family] | None:
    """The model type and its family, from config.json's `model_type` or else its `architectures`; None for others."""
    kind = settings.get("model_type")
    if kind is None:
        kind = next((k for k, family in FAMILIES.items() if _class(settings).startswith(family.classes + "For")), None)
    return (kind, FAMILIES[kind]) if isinstance(kind, str) and kind in FAMILIES else None


def read_settings(settings: Settings, kind: str, family: Family) -> Settings:
    """Translates a config.json to BertConfig's fields.

    Raises:
        UserError: the model has something that BertConfig cannot describe.
    """
    head = _head(settings, family)
    fields = family.read(settings, head)
    return settings | fields | {"model_type": "bert-variant", "architectures": [f"Bert{head}"], "source_type": kind}


def read_tensors(stored: Mapping[str, np.ndarray], settings: Settings, family: Family) -> dict[str, np.ndarray]:
    """Renames a file's tensors, and splits those that hold several parameters. Unknown names stay as they are.

    Args:
        stored: the file's tensors.
        settings: the file's config.json, before `read_settings`.
        family: the model's.

    Raises:
        UserError: a tensor cannot be split.
    """
    head = _head(settings, family)
    if not _class(settings):
        head = max(family.heads, key=lambda head: sum(bool(family.canonical(name, head)) for name in stored))
    if not any(family.canonical(name, head) for name in stored):
        raise UserError(
            f"the weights are not those of {family.classes} (first tensor: {min(stored, default='')!r:.100})."
        )
    found: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        parts = family.canonical(name, head) or (name,)
        if len(parts) > 1 and (array.ndim < 1 or len(array) % len(parts)):
            raise UserError(
                f"{name} has shape {list(array.shape)}, which cannot be split into {len(parts)} equal parts."
            )
        pieces = np.split(array, len(parts)) if len(parts) > 1 else [array]
        found.update(zip(parts, pieces, strict=True))
    return found


def write(
    config: BertConfig, state: State, architecture: str, preferred: str | None
) -> tuple[Settings, State, State] | None:
    """Translates a model to the family that describes it; None if it is BERT itself, or a variant of no family.

    Args:
        config: the model's.
        state: the model's parameters under BERT's names.
        architecture: its class among BERT's.
        preferred: the family that it was read from.

    Returns:
        The config.json, the file's tensors, and the parameters that they contain, without those of other classes.
    """
    task = architecture.removeprefix("Bert")
    head = _TASKS.get(task, task)
    if head == _BARE and any(row.name in state for row in rows(0) if row.group == DISCRIMINATOR):
        head = _PRETRAINING
    kinds = [kind for kind in FAMILIES if kind == preferred or config.is_variant]
    for kind in sorted(kinds, key=lambda kind: kind != preferred):
        family = FAMILIES[kind]
        settings = family.write(config) | {"model_type": kind, "architectures": [family.classes + head]}
        if head in family.heads and _describes(settings, family, config):
            present = {
                name: [state[own] for own in owns]
                for name, owns in family.names(config.num_hidden_layers, head)
                if all(own in state for own in owns)
            }
            held = {own for _, owns in family.names(config.num_hidden_layers, head) for own in owns}
            bare = f"{family.base}." if head == _BARE else ""
            tensors = {name.removeprefix(bare): np.concatenate(parts) for name, parts in present.items()}
            return settings, tensors, {name: array for name, array in state.items() if name in held}
    return None


def _describes(settings: Settings, family: Family, config: BertConfig) -> bool:
    """Whether the config.json is the model's: reading it gives the same fields, except for labels."""
    try:
        back = BertConfig.from_dict(read_settings(settings, settings["model_type"], family))
    except UserError:
        return False
    own = ("num_labels", "label_names", "problem_type", "labels_tokens", "long_text", "max_seq_length")
    return back == dataclasses.replace(config, **{name: getattr(back, name) for name in own})


def _class(settings: Settings) -> str:
    """The name of the model's class; "" if config.json has none."""
    classes = settings.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def _head(settings: Settings, family: Family) -> str:
    head = _class(settings).removeprefix(family.classes)
    return head if head in family.heads else _BARE


# ---- configurations --------------------------------------------------------------------------------------------------

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
)
_BERT_FIELDS = (
    *_SIZES,
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "type_vocab_size",
    "layer_norm_eps",
)
_MODERN_NAMES = {
    **{name: name for name in _SIZES},
    "norm_bias": "norm_bias",
    "decoder_bias": "decoder_bias",
    "classifier_pooling": "classifier_pooling",
    "norm_eps": "layer_norm_eps",
    "hidden_activation": "hidden_act",
    "attention_dropout": "attention_probs_dropout_prob",
    "mlp_dropout": "hidden_dropout_prob",
    "classifier_activation": "pooler_activation",
    "attention_bias": "linear_bias",
    "local_attention": "attention_window",
    "global_attn_every_n_layers": "global_attention_every",
    "tie_word_embeddings": "tied_decoder",
}
_MODERN_DEFAULTS = {"pad_token_id": 50283, "max_position_embeddings": 8192, "hidden_act": "gelu"}
_DISTIL_NAMES = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
    "tie_word_embeddings": "tied_decoder",
}
_ROPE_KINDS = {"full_attention": "rope_theta", "sliding_attention": "local_rope_theta"}


def _read_modernbert(settings: Settings, head: str) -> Settings:
    fields = {**MODERN, **_MODERN_DEFAULTS, "classifier_pooling": "cls", **_named(settings, _MODERN_NAMES)}
    biases = {name: settings.get(name, False) for name in ("attention_bias", "mlp_bias", "classifier_bias")}
    if len(set(map(bool, biases.values()))) > 1:
        raise UserError(f"the model has biases in only some of its linear layers ({biases}), which is not supported.")
    fields["hidden_dropout_prob"] = max(settings.get(name) or 0.0 for name in ("embedding_dropout", "mlp_dropout"))
    fields |= _read_rotations(settings)
    fields.setdefault("global_attention_every", BertConfig.global_attention_every)
    if settings.get("layer_types") is not None:
        fields["global_attention_every"] = _period(settings["layer_types"], fields["global_attention_every"])
    if fields["global_attention_every"] == 1:
        fields |= {"attention_window": 0, "global_attention_every": BertConfig.global_attention_every}
    return fields | {"transform_activation": _other(fields["pooler_activation"], fields["hidden_act"])}


def _write_modernbert(config: BertConfig) -> Settings:
    every = config.global_attention_every if config.attention_window else 1
    local = config.local_rope_theta or config.rope_theta
    thetas = {"full_attention": config.rope_theta, "sliding_attention": local}
    local_layers = [bool(number % every) for number in range(config.num_hidden_layers)]
    return {
        **{theirs: getattr(config, own) for theirs, own in _MODERN_NAMES.items()},
        "mlp_bias": config.linear_bias,
        "classifier_bias": config.linear_bias,
        "embedding_dropout": config.hidden_dropout_prob,
        "local_attention": config.attention_window or MODERN["attention_window"],
        "global_attn_every_n_layers": every,
        # transformers 5 reads the next two, earlier versions the two after them.
        "layer_types": ["sliding_attention" if is_local else "full_attention" for is_local in local_layers],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": local,
    }


def _read_rotations(settings: Settings) -> Settings:
    """The bases of the rotary angles, as transformers 5 or earlier versions write them."""
    if "local_rope_theta" in settings and settings["local_rope_theta"] is None:
        settings = settings | {"local_rope_theta": settings.get("global_rope_theta", MODERN["rope_theta"])}
    thetas = {
        "rope_theta": settings.get("global_rope_theta", MODERN["rope_theta"]),
        "local_rope_theta": settings.get("local_rope_theta", MODERN["local_rope_theta"]),
    }
    parameters = settings.get("rope_parameters") or {}
    for kind, name in _ROPE_KINDS.items():
        found = parameters.get(kind) if isinstance(parameters, dict) else None
        if isinstance(found, dict):
            if found.get("rope_type", "default") != "default":
                raise UserError(
                    f"the model has {found['rope_type']!r:.60} rotary positions, but only 'default' is supported."
                )
            thetas[name] = found.get("rope_theta", thetas[name])
    return thetas


def _period(kinds: Any, stated: Any) -> int:
    """n, where layers 0, n, 2n, … attend to the whole sequence."""
    local = [kind != "full_attention" for kind in kinds] if isinstance(kinds, list) else [True]
    for every in (stated, *range(1, len(local) + 1)):
        if isinstance(every, int) and every > 0 and local == [bool(number % every) for number in range(len(local))]:
            return every
    raise UserError("layer_types in config.json must have full_attention in layers 0, n, 2n, … and nowhere else.")


def _read_roberta(settings: Settings, head: str) -> Settings:
    pad = _whole(settings, "pad_token_id", 1)
    longest = _whole(settings, "max_position_embeddings", 512)
    return {
        "pad_token_id": pad,
        "position_offset": pad + 1,
        "max_position_embeddings": longest - pad - 1,
        "transform_activation": _other("gelu", settings.get("hidden_act", "gelu")),
        **_named(settings, {"tie_word_embeddings": "tied_decoder"}),
    }


def _write_roberta(config: BertConfig) -> Settings:
    return {
        **{name: getattr(config, name) for name in _BERT_FIELDS},
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
        "tie_word_embeddings": config.tied_decoder,
    }


def _read_distilbert(settings: Settings, head: str) -> Settings:
    return {
        "segment_embeddings": False,
        "pooler_activation": "relu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": BertConfig.type_vocab_size,
        "position_embeddings": "sinusoidal" if settings.get("sinusoidal_pos_embds") else "learned",
        **_named(settings, _DISTIL_NAMES),
    }


def _write_distilbert(config: BertConfig) -> Settings:
    fixed = config.position_embeddings == "sinusoidal"
    named = {theirs: getattr(config, own) for theirs, own in _DISTIL_NAMES.items()}
    return named | {"sinusoidal_pos_embds": fixed, "seq_classif_dropout": config.hidden_dropout_prob}


def _read_electra(settings: Settings, head: str) -> Settings:
    projected = settings.get("embedding_size", 128) != settings.get("hidden_size", 256)
    return {
        "embedding_size": settings.get("embedding_size", 128) if projected else 0,
        # Without a projection and a text classifier, ELECTRA is BERT.
        "pooler_activation": "gelu" if projected or head == _SEQUENCE else "tanh",
        "transform_activation": _other("gelu", settings.get("hidden_act", "gelu")),
        **_named(settings, {"tie_word_embeddings": "tied_decoder"}),
    }


def _write_electra(config: BertConfig) -> Settings:
    settings = {name: getattr(config, name) for name in _BERT_FIELDS}
    return settings | {"embedding_size": config.embedding_width, "tie_word_embeddings": config.tied_decoder}


def _named(settings: Settings, names: Mapping[str, str]) -> Settings:
    return {own: settings[theirs] for theirs, own in names.items() if settings.get(theirs) is not None}


def _other(activation: Any, usual: Any) -> Any:
    """`transform_activation`: "" if the masked-LM head has the encoder's activation."""
    return "" if activation == usual else activation


def _whole(settings: Settings, name: str, default: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name} in config.json must be a whole number, not {value!r:.60}.")
    return value


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _same(*modules: str) -> dict[str, tuple[str, ...]]:
    return {module: (module,) for module in modules}


def _bert_embeddings(base: str) -> dict[str, tuple[str, ...]]:
    parts = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    return {f"{base}.embeddings.{part}": (f"bert.embeddings.{part}",) for part in parts}


_BERT_LAYER = _same(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_TWO_LAYERS = {"classifier.dense": (_POOLER,), "classifier.out_proj": (_CLASSIFIER,)}
_MODERN_HEAD = {"head.dense": (_POOLER,), "head.norm": ("bert.pooler.LayerNorm",)}
_ROBERTA_POOLER = {"roberta.pooler.dense": (_POOLER,)}

FAMILIES: dict[str, Family] = {
    "modernbert": Family(
        classes="ModernBert",
        base="model",
        layers="layers",
        embeddings={
            "model.embeddings.tok_embeddings": ("bert.embeddings.word_embeddings",),
            "model.embeddings.norm": ("bert.embeddings.LayerNorm",),
            "model.final_norm": ("bert.encoder.LayerNorm",),
        },
        layer={
            "attn_norm": ("attention.output.LayerNorm",),
            "attn.Wqkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
            "attn.Wo": ("attention.output.dense",),
            "mlp_norm": ("output.LayerNorm",),
            "mlp.Wi": ("intermediate.dense", "intermediate.gate"),
            "mlp.Wo": ("output.dense",),
        },
        heads={
            _BARE: {},
            _MASKED: {
                "head.dense": (_TRANSFORM,),
                "head.norm": (_TRANSFORM_NORM,),
                "decoder.weight": (_DECODER,),
                "decoder.bias": (_DECODER_BIAS,),
            },
            _SEQUENCE: _MODERN_HEAD | _same(_CLASSIFIER),
            _TOKEN: _MODERN_HEAD | _same(_CLASSIFIER),
            _SPAN: _MODERN_HEAD | {"classifier": (_QA,)},
        },
        read=_read_modernbert,
        write=_write_modernbert,
    ),
    "roberta": Family(
        classes="Roberta",
        base="roberta",
        layers="encoder.layer",
        embeddings=_bert_embeddings("roberta"),
        layer=_BERT_LAYER,
        heads={
            _BARE: _ROBERTA_POOLER,
            _MASKED: {
                **_ROBERTA_POOLER,
                "lm_head.dense": (_TRANSFORM,),
                "lm_head.layer_norm": (_TRANSFORM_NORM,),
                "lm_head.decoder.weight": (_DECODER,),
                "lm_head.bias": (_DECODER_BIAS,),
            },
            _SEQUENCE: _TWO_LAYERS,
            _TOKEN: _same(_CLASSIFIER),
            _SPAN: _same(_QA),
        },
        read=_read_roberta,
        write=_write_roberta,
    ),
    "distilbert": Family(
        classes="DistilBert",
        base="distilbert",
        layers="transformer.layer",
        embeddings=_bert_embeddings("distilbert"),
        layer={
            "attention.q_lin": ("attention.self.query",),
            "attention.k_lin": ("attention.self.key",),
            "attention.v_lin": ("attention.self.value",),
            "attention.out_lin": ("attention.output.dense",),
            "sa_layer_norm": ("attention.output.LayerNorm",),
            "ffn.lin1": ("intermediate.dense",),
            "ffn.lin2": ("output.dense",),
            "output_layer_norm": ("output.LayerNorm",),
        },
        heads={
            _BARE: {},
            _MASKED: {
                "vocab_transform": (_TRANSFORM,),
                "vocab_layer_norm": (_TRANSFORM_NORM,),
                "vocab_projector.weight": (_DECODER,),
                "vocab_projector.bias": (_DECODER_BIAS,),
            },
            _SEQUENCE: {"pre_classifier": (_POOLER,)} | _same(_CLASSIFIER),
            _TOKEN: _same(_CLASSIFIER),
            _SPAN: _same(_QA),
        },
        read=_read_distilbert,
        write=_write_distilbert,
    ),
    "electra": Family(
        classes="Electra",
        base="electra",
        layers="encoder.layer",
        embeddings=_bert_embeddings("electra") | {"electra.embeddings_project": ("bert.embeddings.projection",)},
        layer=_BERT_LAYER,
        heads={
            _BARE: {},
            _PRETRAINING: _same("discriminator_predictions.dense", "discriminator_predictions.dense_prediction"),
            _MASKED: {
                "generator_predictions.dense": (_TRANSFORM,),
                "generator_predictions.LayerNorm": (_TRANSFORM_NORM,),
                "generator_lm_head.weight": (_DECODER,),
                "generator_lm_head.bias": (_DECODER_BIAS,),
            },
            _SEQUENCE: _TWO_LAYERS,
            _TOKEN: _same(_CLASSIFIER),
            _SPAN: _same(_QA),
        },
        read=_read_electra,
        write=_write_electra,
    ),
}
