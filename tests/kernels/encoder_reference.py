"""BERT's encoder in numpy with float64 throughout, after Devlin et al. 2018."""

import math

import numpy as np

from kernels.encoder import EncoderShape

erf = np.vectorize(math.erf)


def draw(shape: EncoderShape, seed: int, *, biases: bool = True, final_norm: bool = False, embedding_norm: bool = True):
    """float32 parameters by their names in `BertModel`."""
    rng = np.random.default_rng(seed)
    hidden, wide = shape.hidden, shape.intermediate
    parameters = {}

    def matrix(name, outputs, inputs, scale):
        parameters[f"{name}.weight"] = (scale * rng.standard_normal((outputs, inputs))).astype(np.float32)

    def linear(name, outputs, inputs):
        matrix(name, outputs, inputs, inputs**-0.5)
        if biases:
            parameters[f"{name}.bias"] = (0.3 * rng.standard_normal(outputs)).astype(np.float32)

    def norm(name):
        parameters[f"{name}.weight"] = (1 + 0.2 * rng.standard_normal(hidden)).astype(np.float32)
        parameters[f"{name}.bias"] = (0.2 * rng.standard_normal(hidden)).astype(np.float32)

    for name, rows in (
        ("word_embeddings", shape.vocabulary),
        ("position_embeddings", shape.positions),
        ("token_type_embeddings", shape.segments),
    ):
        matrix(f"embeddings.{name}", rows, hidden, 1.0)
    if embedding_norm:
        norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(shape.layers)):
        for name in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{name}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", wide, hidden)
        linear(f"{layer}.output.dense", hidden, wide)
        norm(f"{layer}.output.LayerNorm")
    if final_norm:
        norm("encoder.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return parameters


def encode(shape: EncoderShape, parameters, ids, segments, keep):
    """sequence_output [B, S, H], zero where `keep` [B, S] is false, and pooled_output [B, H]."""
    p = {name: array.astype(np.float64) for name, array in parameters.items()}
    batch, length = ids.shape

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    def norm(name, x):
        if f"{name}.weight" not in p:
            return x
        centered = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centered**2).mean(-1, keepdims=True) + shape.epsilon)
        return centered / spread * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(name, x):
        def heads(part):
            return linear(f"{name}.{part}", x).reshape(batch, length, shape.heads, -1).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")  # [B, N, S, D]
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(shape.hidden // shape.heads)
        scores = np.where(keep[:, None, None, :], scores, -1e9)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return (powers / powers.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(x.shape)

    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    words, positions, types = (p[f"embeddings.{name}.weight"] for name in tables)
    x = norm("embeddings.LayerNorm", words[ids] + positions[:length] + types[segments])
    for layer in (f"encoder.layer.{i}" for i in range(shape.layers)):
        read = norm(f"{layer}.attention.output.LayerNorm", x) if shape.pre_norm else x
        x = x + linear(f"{layer}.attention.output.dense", attention(f"{layer}.attention.self", read))
        x = x if shape.pre_norm else norm(f"{layer}.attention.output.LayerNorm", x)
        read = norm(f"{layer}.output.LayerNorm", x) if shape.pre_norm else x
        expanded = linear(f"{layer}.intermediate.dense", read)
        x = x + linear(f"{layer}.output.dense", expanded * (1 + erf(expanded / math.sqrt(2))) / 2)
        x = x if shape.pre_norm else norm(f"{layer}.output.LayerNorm", x)
    x = norm("encoder.LayerNorm", x) * keep[..., None]
    return x, np.tanh(linear("pooler.dense", x[:, 0]))
