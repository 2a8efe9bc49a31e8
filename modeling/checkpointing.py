"""Activation checkpointing (Chen et al. 2016) for eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oneflow as flow
from oneflow.utils.checkpoint import checkpoint

from modeling import dropout


def checkpointed(layer: Callable[..., flow.Tensor], *inputs: Any) -> flow.Tensor:
    """Computes layer(*inputs), storing only the inputs; the backward pass recomputes the layer.

    Unlike OneFlow's `checkpoint`, this restores the dropout masks and autocast for the recomputation.
    """
    state = dropout.get_state()
    half, dtype = flow.is_autocast_enabled(), flow.get_autocast_gpu_dtype()

    def run(*inputs: Any) -> flow.Tensor:
        dropout.set_state(state)
        with flow.autocast("cuda", dtype=dtype, enabled=half):
            return layer(*inputs)

    return checkpoint(run, *inputs)
