"""The BERT encoder (Devlin et al. 2018, google-research/bert modeling.py) and its variants, top to bottom.

Each variant is a field of `BertConfig`. Parts that a model lacks are `nn.Identity` or None, so variants add no
operations to BERT itself.

Shapes: `B` batch, `S` sequence, `H` hidden, `N` heads, `D` head size, `I` intermediate. Hidden states between layers
have the shape [B*S, H], so that every linear layer is a single 2-D matrix product.
"""

from __future__ import annotations

import math

import numpy as np
import oneflow as flow
from oneflow import nn

from configs.model import BertConfig
from modeling import dropout, ops, trace
from modeling.attention import Rows, attention
from modeling.checkpointing import checkpointed
from modeling.layout import whole
from modeling.positions import Rotary, Rotation, alibi_slopes, rotate
from modeling.pretrained import PretrainedModel

# Tokens; from this length on, the feed-forward network takes half of the memory and a tenth of the time of a step.
_VERY_LONG_ROW = 4096


class BertModel(PretrainedModel):
    """The encoder: maps token ids to one vector per token, and a pooled vector of the first token."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        init_weights(self, config, seed)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
    ) -> dict[str, flow.Tensor]:
        """Encode a batch.

        Args:
            input_ids: int32 or int64 [B, S], each below `vocab_size`.
            input_mask: [B, S], 1 for tokens and 0 for padding (default: no padding).
            segment_ids: [B, S], 0 for the first and 1 for the second sentence (default: all 0).
            packed_tokens, packed_places: the batch's G groups of tokens without padding [G, 4, T], and where each
                position [B, S] lies in them (data/reading/packing.py). The encoder then computes no padding, and the
                outputs at padding are meaningless.

        Returns:
            `sequence_output` [B, S, H] and `pooled_output` [B, H].
        """
        batch, length = input_ids.shape
        dropout.restart()
        keep = flow.ones_like(input_ids) if input_mask is None else input_mask
        if packed_tokens is not None and packed_places is not None:
            ids, segments, positions, numbers = (packed_tokens[:, part] for part in range(4))  # [G, T]
            hidden = self.embeddings(ids, segments, positions)  # [G*T, H]
            hidden = self.encoder(hidden, Rows(numbers, packed=True), positions)  # [G*T, H]
            hidden = hidden.reshape(*ids.shape, -1)  # [G, T, H]
            hidden = flow._C.batch_gather(hidden, packed_places.reshape(ids.shape[0], -1))  # [G, B*S/G, H]
        else:
            hidden = self.encoder(self.embeddings(input_ids, segment_ids), Rows(keep))  # [B*S, H]
        sequence_output = hidden.reshape(batch, length, -1)  # [B, S, H]
        return {"sequence_output": sequence_output, "pooled_output": self.pooler(sequence_output, keep)}


class Embeddings(nn.Module):
    """The sum of word, position and segment embeddings, followed by LayerNorm and dropout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width  # [E], which is H unless the embeddings are projected
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        if config.has_position_table:
            positions = config.max_position_embeddings + config.position_offset
            self.position_embeddings = nn.Embedding(positions, width)
            self.position_embeddings.weight.requires_grad = config.position_embeddings == "learned"
        if config.segment_embeddings:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = LayerNorm(config, width) if config.embedding_norm else nn.Identity()
        self.projection = nn.Linear(width, config.hidden_size) if config.embedding_size else nn.Identity()
        self.config, self.dropout_rate = config, config.hidden_dropout_prob

    def forward(
        self, input_ids: flow.Tensor, segment_ids: flow.Tensor | None, position_ids: flow.Tensor | None = None
    ) -> flow.Tensor:
        """ids [B, S] -> [B*S, H]; positions count from the start of the row unless `position_ids` [B, S] are given."""
        batch, length = input_ids.shape
        hidden = whole(self.word_embeddings(input_ids))  # [B, S, E]
        if self.config.segment_embeddings:
            if segment_ids is None or self.config.type_vocab_size == 1:
                hidden = hidden + self.token_type_embeddings.weight[0]  # [E]
            else:
                hidden = hidden + self.token_type_embeddings(segment_ids)  # [B, S, E]
        if self.config.has_position_table:
            offset = self.config.position_offset
            if offset and position_ids is None:
                position_ids = _positions_of_tokens(input_ids, self.config.pad_token_id)
            if position_ids is None:
                hidden = hidden + self.position_embeddings.weight[:length]  # [S, E]
            else:
                hidden = hidden + self.position_embeddings(position_ids + offset if offset else position_ids)
        hidden = self.LayerNorm(hidden.reshape(batch * length, -1))  # [B*S, E]
        return self.projection(ops.dropout(hidden, self.dropout_rate if self.training else 0.0))


def _positions_of_tokens(input_ids: flow.Tensor, pad: int) -> flow.Tensor:
    """Positions that count tokens but not padding, whose position is -1 (RoBERTa, Liu et al. 2019); [B, S]."""
    tokens = (input_ids != pad).to(flow.int64)
    return flow.cumsum(tokens, 1) * tokens - 1


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config, number) for number in range(config.num_hidden_layers)])
        self.LayerNorm = LayerNorm(config) if config.final_norm else nn.Identity()
        self.checkpoints_activations = False
        if config.position_embeddings == "rotary":
            size = (config.max_position_embeddings, config.num_attention_heads, config.head_size)
            self.rotary = Rotary(config.rope_theta, *size)
            self.local_rotary = Rotary(config.local_rope_theta or config.rope_theta, *size)

    def forward(self, hidden: flow.Tensor, rows: Rows, position_ids: flow.Tensor | None = None) -> flow.Tensor:
        """[B*S, H] -> [B*S, H]; positions count from the start of the row unless `position_ids` [B, S] are given."""
        length = rows.numbers.shape[1]
        frugal = self.training and not (rows.packed or hidden.is_lazy) and length >= _VERY_LONG_ROW
        rotations: list[Rotation] = []
        if hasattr(self, "rotary"):
            rotations = [rotary(length, position_ids) for rotary in (self.rotary, self.local_rotary)]
        trace.add_hidden(hidden)
        for layer in self.layer:
            rotation = rotations[layer.is_local] if rotations else None
            if self.checkpoints_activations and self.training:
                hidden = checkpointed(layer, hidden, rows, rotation)
            else:
                hidden = layer(hidden, rows, rotation, frugal)
            trace.add_hidden(hidden)
        return self.LayerNorm(hidden)


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each followed by dropout, a residual connection and LayerNorm.

    With `norm` "pre" (Xiong et al. 2020), LayerNorm is instead applied to the input of each, and the residual bypasses
    it. Parameter names are the same in both cases.
    """

    def __init__(self, config: BertConfig, number: int) -> None:
        super().__init__()
        self.attention = Attention(config, number)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_size, config)
        self.is_local = config.is_local(number)

    def forward(
        self, hidden: flow.Tensor, rows: Rows, rotation: Rotation | None = None, frugal: bool = False
    ) -> flow.Tensor:
        """[B*S, H] -> [B*S, H]; a frugal layer computes the feed-forward network again in its backward pass."""
        attended = self.attention(hidden, rows, rotation)  # [B*S, H]
        return checkpointed(self._feed_forward, attended) if frugal else self._feed_forward(attended)

    def _feed_forward(self, attended: flow.Tensor) -> flow.Tensor:
        normed = whole(self.output.norm_before(attended))  # [B*S, H]
        return self.output(self.intermediate(normed), attended)


class Attention(nn.Module):
    """Multi-head self-attention and its output projection."""

    def __init__(self, config: BertConfig, number: int) -> None:
        super().__init__()
        self.self = SelfAttention(config, number)
        self.output = ResidualOutput(config.hidden_size, config, has_norm=config.first_norm or number > 0)

    def forward(self, hidden: flow.Tensor, rows: Rows, rotation: Rotation | None = None) -> flow.Tensor:
        """[B*S, H] -> [B*S, H]."""
        return self.output(self.self(self.output.norm_before(hidden), rows, rotation), hidden)


class SelfAttention(nn.Module):
    """softmax(Q Kᵀ / √D + mask) V (Vaswani et al. 2017) for all heads at once.

    A local layer masks all but a window around each token (Beltagy et al. 2020).
    """

    def __init__(self, config: BertConfig, number: int) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.linear_bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.linear_bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.linear_bias)
        self.num_heads = config.num_attention_heads
        self.dropout_rate = config.attention_probs_dropout_prob
        self.reach = config.attention_window // 2 if config.is_local(number) else None
        self.slopes = alibi_slopes(self.num_heads) if config.position_embeddings == "alibi" else ()

    def forward(self, hidden: flow.Tensor, rows: Rows, rotation: Rotation | None = None) -> flow.Tensor:
        """[B*S, H] -> [B*S, H]."""
        hidden = whole(hidden)
        query, key, value = (
            ops.linear(hidden, linear.weight, linear.bias) for linear in (self.query, self.key, self.value)
        )  # [B*S, H]
        if rotation is not None:
            query, key = rotate(query, rotation, self.num_heads), rotate(key, rotation, self.num_heads)
        trace.add_attention(rows, query, key, value)
        rate = self.dropout_rate if self.training else 0.0
        return attention(query, key, value, rows, heads=self.num_heads, rate=rate, reach=self.reach, slopes=self.slopes)


class Dense(nn.Module):
    """A linear layer named `dense`, as in the published checkpoints."""

    def __init__(self, in_features: int, out_features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, out_features, bias=config.linear_bias)


class Intermediate(Dense):
    """activation(dense(x)), or activation(dense(x)) * gate(x) (GLU variants, Shazeer 2020)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size, config)
        self.activation = config.hidden_act
        if config.feed_forward == "gated":
            self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.linear_bias)

    def forward(self, x: flow.Tensor) -> flow.Tensor:
        """[B*S, H] -> [B*S, I]."""
        projected = flow._C.matmul(x, self.dense.weight, transpose_b=True)
        expanded = ops.bias_activation(projected, self.dense.bias, self.activation)
        return expanded * ops.linear(x, self.gate.weight, self.gate.bias) if hasattr(self, "gate") else expanded


class ResidualOutput(Dense):
    """LayerNorm(residual + dropout(dense(x))); with `norm` "pre", `norm_before` applies the LayerNorm instead."""

    def __init__(self, in_features: int, config: BertConfig, has_norm: bool = True) -> None:
        super().__init__(in_features, config.hidden_size, config)
        self.LayerNorm = LayerNorm(config) if has_norm else nn.Identity()
        self.pre_norm = config.norm == "pre"
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, x: flow.Tensor, residual: flow.Tensor) -> flow.Tensor:
        """x [B*S, in_features], residual [B*S, H] -> [B*S, H]."""
        projected = whole(flow._C.matmul(x, self.dense.weight, transpose_b=True))  # [B*S, H]
        rate = self.dropout_rate if self.training else 0.0
        added = ops.bias_dropout_add(projected, self.dense.bias, residual, rate)
        return added if self.pre_norm else self.LayerNorm(added)

    def norm_before(self, hidden: flow.Tensor) -> flow.Tensor:
        """The input of attention or feed-forward: LayerNorm(hidden) with `norm` "pre", else `hidden`; [B*S, H]."""
        return self.LayerNorm(hidden) if self.pre_norm else hidden


class Pooler(Dense):
    """tanh(dense(x)) of the first token; variants have another activation, LayerNorm, or the mean of all tokens."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.hidden_size, config.hidden_size, config)
        self.has_norm = config.pooler_norm
        self.LayerNorm = LayerNorm(config) if self.has_norm else nn.Identity()
        self.activation, self.reads_mean = config.pooler_activation, config.classifier_pooling == "mean"

    def forward(self, sequence_output: flow.Tensor, keep: flow.Tensor) -> flow.Tensor:
        """[B, S, H] and the mask [B, S] -> [B, H]."""
        if not self.reads_mean:
            return self.transform(sequence_output[:, 0])
        weights = keep.to(sequence_output.dtype).unsqueeze(2)  # [B, S, 1]
        return self.transform((sequence_output * weights).sum(dim=1) / weights.sum(dim=1))

    def transform(self, x: flow.Tensor) -> flow.Tensor:
        """[R, H] -> [R, H]; it calls no module, so that heads can use it too in nn.Graph."""
        projected = flow._C.matmul(x, self.dense.weight, transpose_b=True)
        projected = projected if self.dense.bias is None else projected + self.dense.bias
        activated = ops.activation(projected, self.activation)
        return self.LayerNorm.normalize(activated) if self.has_norm else activated


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016) or RMS normalization (Zhang & Sennrich 2019) over the last axis."""

    def __init__(self, config: BertConfig, width: int | None = None) -> None:
        super().__init__()
        width = width or config.hidden_size
        self.weight = nn.Parameter(flow.ones(width))
        self.is_rms = config.norm_type == "rms"
        self.bias = nn.Parameter(flow.zeros(width)) if config.norm_bias and not self.is_rms else None
        self.eps = config.layer_norm_eps

    def forward(self, x: flow.Tensor) -> flow.Tensor:
        """[R, H] -> [R, H]."""
        return self.normalize(x)

    def normalize(self, x: flow.Tensor) -> flow.Tensor:
        """[R, H] -> [R, H]."""
        if self.is_rms:
            return ops.rms_norm(x, self.weight, self.eps)
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


def init_weights(module: nn.Module, config: BertConfig, seed: int) -> None:
    """Initialize the parameters as Google's code does.

    Matrices come from a truncated normal distribution, biases are 0, LayerNorm weights are 1. numpy draws the values in
    the order of the parameters, so that every mode, device and rank starts from the same model.
    """
    generator = np.random.default_rng(seed)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:  # sinusoidal position embeddings
            values = sinusoids(config.max_position_embeddings, config.hidden_size, config.initializer_range)
        elif parameter.dim() > 1:
            values = truncated_normal(generator, tuple(parameter.shape), config.initializer_range)
        else:
            values = np.full(tuple(parameter.shape), float(name.endswith("LayerNorm.weight")), np.float32)
        parameter.data.copy_(flow.from_numpy(values))


def sinusoids(positions: int, width: int, stddev: float) -> np.ndarray:
    """Sinusoidal position embeddings (Vaswani et al. 2017), float32 [positions, width], sines and cosines interleaved.

    They are scaled to `stddev`, the standard deviation of newly initialized word embeddings. With an amplitude of 1,
    they would dominate the sum of the embeddings.
    """
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(positions)[:, None] * frequencies  # [positions, width / 2 rounded up]
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, -1)[:, :width]
    return (table * math.sqrt(2) * stddev).astype(np.float32)


def truncated_normal(generator: np.random.Generator, shape: tuple[int, ...], stddev: float) -> np.ndarray:
    """float32 values from a normal distribution truncated at two standard deviations."""
    values = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()), np.float32)
    return values * np.float32(stddev)
