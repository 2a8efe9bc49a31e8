"""Activation checkpointing (Chen et al. 2016), in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oneflow as flow
from oneflow.utils.checkpoint import checkpoint

from modeling import dropout


def checkpointed(layer: Callable[..., flow.Tensor], *inputs: Any) -> flow.Tensor:
    """layer(*inputs), of which only the inputs are kept: for its backward pass the layer is computed again.

    The framework computes again whatever it is given; that this has the same dropout masks and the same precision is
    added here.
    """
    place = dropout.place()
    half, dtype = flow.is_autocast_enabled(), flow.get_autocast_gpu_dtype()

    def run(*inputs: Any) -> flow.Tensor:
        dropout.go_to(place)
        with flow.autocast("cuda", dtype=dtype, enabled=half):
            return layer(*inputs)

    return checkpoint(run, *inputs)
