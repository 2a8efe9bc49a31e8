"""Runs a model's encoder as one call on packed weights: float32, bf16 or int8, on a CPU with our kernels.

The model is still defined in `modeling/bert.py`: `pack` looks up the weights by name and replaces `BertModel.forward`
with a function that has the same inputs and outputs. Heads run unchanged on its outputs.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import oneflow as flow

import kernels
from configs.model import ACTIVATIONS, BertConfig
from inference.errors import ArgumentError
from kernels.encoder import LINEARS, EncoderShape, PackedEncoder, Precision
from modeling import BertModel
from modeling.positions import alibi_slopes
from modeling.pretrained import PretrainedModel
from utils.messages import warn

AskedPrecision = Literal["fp32", "bf16", "fp16", "int8", "auto"]
PRECISIONS = get_args(AskedPrecision)


def choose_precision(
    asked: AskedPrecision, device: str, mode: str, *, has_int8: bool = True
) -> Precision | Literal["fp16"]:
    """The precision to use: the requested one if this machine supports it, else the next best, with a warning.

    fp16 is for CUDA, as mixed precision is in training; on a CPU it stands for bf16.

    Args:
        asked, device, mode: see `load`.
        has_int8: whether the model's encoder can be packed, which int8 needs.

    Raises:
        ArgumentError: a precision other than fp32 is requested in graph mode.
    """
    if asked == "fp32":
        return "fp32"
    if asked == "fp16":
        if device != "cpu":
            return "fp16"
        asked = "bf16"
    status = kernels.load() if device == "cpu" and mode == "eager" else None
    if asked == "auto":
        return _best(status, has_int8)
    if mode == "graph" and device == "cpu":
        raise ArgumentError("precision", f"{asked} needs eager mode, not graph mode.")
    if status is None:
        why = f"{device} only has fp32 and fp16"
    elif not status.loaded:
        why = status.reason
    elif {"bf16": status.bf16, "int8": status.int8 and has_int8}[asked]:
        return asked
    elif asked == "int8" and not has_int8:
        why = "int8 does not support this encoder"
    else:
        why = f"this CPU does not support {asked} products"
    instead: Precision = "bf16" if status is not None and status.loaded and status.bf16 else "fp32"
    warn(f"precision {asked} is not available ({why}): {instead} is used instead.")
    return instead


def _best(status: kernels.Status | None, has_int8: bool) -> Precision:
    """The fastest precision that this CPU and the encoder support."""
    if status is None or not status.loaded:
        return "fp32"
    return "int8" if status.int8 and has_int8 else "bf16" if status.bf16 else "fp32"


def check_kept(names: tuple[str, ...], layers: int) -> None:
    """Checks the names of products to keep in higher precision with int8.

    Raises:
        ArgumentError: a name is not that of a product of the encoder.
    """
    known = {*LINEARS, *(f"{layer}.{linear}" for layer in range(layers) for linear in LINEARS)}
    for name in names:
        if name not in known:
            raise ArgumentError(
                "int8_keep",
                f"{name} is not a product of the encoder: use {', '.join(LINEARS)}, or for one layer 0.output, up to "
                f"layer {layers - 1}.",
            )


def can_pack(config: BertConfig) -> bool:
    """Whether the kernel has all operations of this encoder."""
    return not config.embedding_size


def pack(model: PretrainedModel, precision: Precision, kept: tuple[str, ...] = ()) -> None:
    """Makes the model's encoder run on packed weights, for inference only; our kernels must be loaded.

    Args:
        model: any of `modeling`'s, on the CPU.
        precision: the precision of the encoder's matrix products.
        kept: with int8, the products to keep in higher precision, see `kernels.encoder.PackedEncoder`.
    """
    bert = model if isinstance(model, BertModel) else model.bert
    bert.forward = _Packed(bert, precision, kept).forward  # type: ignore[method-assign]


class _Packed:
    """A BertModel's forward pass on packed weights, which are repacked if the model's weights change."""

    def __init__(self, bert: BertModel, precision: Precision, kept: tuple[str, ...]) -> None:
        self.bert, self.precision, self.kept = bert, precision, kept
        pooler = (bert.config.pooler_activation, bert.config.pooler_norm, bert.config.classifier_pooling)
        self.has_plain_pooler = pooler == ("tanh", False, "cls")
        self.encoder = self._packed()

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
    ) -> dict[str, flow.Tensor]:
        """As `BertModel.forward`'s; `sequence_output` is zero where the mask is. It never computes padding."""
        if not self.encoder.is_current():
            self.encoder = self._packed()
        config, ids = self.bert.config, input_ids.numpy()  # [B, S]
        keep = (flow.ones_like(input_ids) if input_mask is None else input_mask).numpy() != 0
        # A model with one segment embedding adds it to every token.
        if segment_ids is None or config.type_vocab_size == 1:
            segment_ids = flow.zeros_like(input_ids)
        segments = segment_ids.numpy()
        if config.position_offset and (keep & (ids == config.pad_token_id)).any():  # such tokens have no position
            return BertModel.forward(self.bert, input_ids, input_mask, segment_ids)
        sequence_output = self.encoder.run(ids, segments, keep)  # [B, S, H]
        if self.has_plain_pooler:
            pooled = flow.from_numpy(self.encoder.pool(sequence_output[:, 0]))  # [B, H]
        else:
            pooled = self.bert.pooler(flow.from_numpy(sequence_output), flow.from_numpy(keep.astype(np.int32)))
        return {"sequence_output": flow.from_numpy(sequence_output), "pooled_output": pooled}

    def _packed(self) -> PackedEncoder:
        config = self.bert.config
        shape = EncoderShape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
            positions=config.max_position_embeddings,
            segments=config.type_vocab_size,
            pre_norm=config.norm == "pre",
            epsilon=config.layer_norm_eps,
            rms_norm=config.norm_type == "rms",
            gated=config.feed_forward == "gated",
            activation=next(name for name, names in ACTIVATIONS.items() if config.hidden_act in names),
            reach=tuple(
                config.attention_window // 2 if config.is_local(layer) else -1
                for layer in range(config.num_hidden_layers)
            ),
            slopes=alibi_slopes(config.num_attention_heads) if config.position_embeddings == "alibi" else (),
            position_offset=config.position_offset if config.has_position_table else 0,
        )
        tensors = (*self.bert.named_parameters(), *self.bert.named_buffers())
        parameters = {name: tensor.numpy() for name, tensor in tensors}
        low: Literal["fp32", "bf16"] = "bf16" if self.precision != "fp32" and kernels.load().bf16 else "fp32"
        return PackedEncoder(shape, parameters, self.precision, low, self.kept)
