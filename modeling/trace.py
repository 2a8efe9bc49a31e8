"""Records the hidden states and attention inputs of an encoder, for losses that compare two models by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import oneflow as flow

from modeling.attention import Rows


@dataclass
class Trace:
    """The hidden states of an encoder, and the inputs of attention in one of its layers.

    Attributes:
        layer: the layer whose attention is recorded, numbered from 0.
        hidden: [B*S, H] each: the output of the embeddings, then those of all layers.
        attention: query, key and value of that layer, [B*S, H] each.
        rows: which token belongs to which sequence.
    """

    layer: int
    hidden: list[flow.Tensor] = field(default_factory=list)
    attention: tuple[flow.Tensor, ...] = ()
    rows: Rows | None = None


_active: list[Trace] = []  # the innermost recording is last


@contextmanager
def recording(layer: int) -> Iterator[Trace]:
    """Records the encoder that runs in the `with` block; `layer` as in `Trace`."""
    _active.append(Trace(layer))
    try:
        yield _active[-1]
    finally:
        _active.pop()


def add_hidden(hidden: flow.Tensor) -> None:
    """Adds the output of the embeddings or of the next layer to the active recording, if any."""
    if _active:
        _active[-1].hidden.append(hidden)


def add_attention(rows: Rows, *inputs: flow.Tensor) -> None:
    """Adds the query, key and value of the current layer to the active recording, if it wants them."""
    if _active and len(_active[-1].hidden) == _active[-1].layer + 1:
        _active[-1].attention, _active[-1].rows = inputs, rows
