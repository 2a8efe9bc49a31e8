"""Estimates the memory of a training run before anything is allocated.

The estimate is a lower bound, so that only runs that cannot work are refused. Measured on a CPU with float32
(2 to 4 layers, hidden sizes 128 to 512, 8 to 64 sequences of 128 or 512 tokens), a process peaked 6 % to 36 % above it.
"""

from __future__ import annotations

import resource
from pathlib import Path

from configs.model import LONG_ROW, BertConfig
from utils.errors import UserError

_PROCESS = 300 << 20  # the interpreter, the framework and the CPU kernels
_RESERVED = 700 << 20  # address space that the framework's threads reserve during computation
_FRAMEWORK = 4400 << 20  # address space that OneFlow reserves when it is loaded
_COPIES = 4  # values per parameter in float32: weight, gradient, first and second moment
_FLOAT = 4  # bytes


def num_parameters(model: BertConfig) -> int:
    """The number of parameters of BERT for pretraining with this configuration; other heads are smaller."""
    hidden, inner, width = model.hidden_size, model.intermediate_size, model.embedding_width
    bias, norm_bias = int(model.linear_bias), int(model.norm_bias and model.norm_type == "layer")
    positions = model.max_position_embeddings + model.position_offset  # sinusoids are stored too
    rows = model.vocab_size * (1 if model.tied_decoder else 2)
    rows += positions * model.has_position_table + model.type_vocab_size * model.segment_embeddings
    embeddings = rows * width + (1 + norm_bias) * width * model.embedding_norm
    embeddings += (width + 1) * hidden * bool(model.embedding_size)
    norm = (1 + norm_bias) * hidden
    inputs = 2 if model.feed_forward == "gated" else 1  # of the feed-forward network
    layer = 4 * hidden * (hidden + bias) + inputs * inner * (hidden + bias) + hidden * (inner + bias) + 2 * norm
    layers = model.num_hidden_layers * layer + norm * (model.final_norm - (not model.first_norm))
    pooler = hidden * (hidden + bias) + norm * model.pooler_norm
    transform = width * (hidden + bias) + (1 + norm_bias) * width + model.vocab_size * model.decoder_bias
    next_sentence = 2 * (hidden + 1)
    return embeddings + layers + pooler + transform + next_sentence


def activation_bytes(
    model: BertConfig, rows: int, seq_length: int, predictions: int = 0, *, checkpointing: bool = False
) -> int:
    """The bytes that one micro-batch keeps for its backward pass.

    A layer keeps about 19 values of the hidden size for each token (its input; query, key, value; the attention's
    output before and after projection, dropout and LayerNorm; twice the intermediate size; the feed-forward output
    before and after dropout and LayerNorm) and, in rows shorter than `LONG_ROW`, three matrices of attention weights
    for each head. The masked-LM head keeps three matrices of logits.

    Args:
        model: the model's shape.
        rows: sequences in one rank's micro-batch.
        seq_length: tokens per sequence.
        predictions: masked positions per sequence.
        checkpointing: whether layers keep only their inputs (`--activation_checkpointing`).
    """
    hidden = model.hidden_size
    scores = 3 * model.num_attention_heads * seq_length if seq_length < LONG_ROW else 0
    layer = 11 * hidden + 2 * model.intermediate_size + scores
    per_token = model.num_hidden_layers * hidden + layer if checkpointing else model.num_hidden_layers * layer
    return _FLOAT * rows * (seq_length * per_token + 3 * predictions * model.vocab_size)


def training_bytes(
    model: BertConfig, rows: int, seq_length: int, predictions: int = 0, *, checkpointing: bool = False
) -> int:
    """The bytes that one rank needs: process, parameters with gradients and moments, activations of one micro-batch.

    The arguments are those of `activation_bytes`.
    """
    activations = activation_bytes(model, rows, seq_length, predictions, checkpointing=checkpointing)
    return _PROCESS + _COPIES * _FLOAT * num_parameters(model) + activations


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The bytes of memory still available to this process, or None if unknown.

    It is the minimum of the machine's available memory and of what the container and `ulimit -v` still allow.
    """
    found = []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        pages = int((proc / "self/statm").read_text().split()[0])
        if limit != resource.RLIM_INFINITY:
            found.append(max(0, limit - pages * resource.getpagesize() - _RESERVED))
    except (OSError, ValueError, IndexError):
        pass
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int((cgroup / most).read_text()) - int((cgroup / used).read_text())))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found, default=None)


def require_address_space() -> None:
    """Raises UserError if `ulimit -v` is too low to load the framework, which would crash."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _FRAMEWORK:
        raise UserError(
            f"`ulimit -v` allows {_gigabytes(limit)} GB of address space, and OneFlow reserves "
            f"{_gigabytes(_FRAMEWORK)} GB when it is loaded: raise the limit."
        )


def require_memory(needed: int, available: int | None) -> None:
    """Raises UserError if a run needs more bytes than are available; None means unknown."""
    if available is not None and needed > available:
        raise UserError(
            f"this run needs about {_gigabytes(needed)} GB of memory, but this machine, its container and "
            f"`ulimit -v` leave only {_gigabytes(available)} GB: "
            "lower --train_batch_size (--grad_acc_steps keeps the size of an update) or --seq_length, or choose a "
            "smaller model."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f}" if size < 1e11 else f"{size / 1e9:,.0f}"
