"""Placement of tensors: the only module that uses OneFlow's placements and SBP signatures.

Tensors are local in a single process and in eager mode. The compiled job of several ranks uses global tensors:
parameters and optimizer state are replicated on every rank (`replicate`), batches are split by rows (`split_rows`), and
constants are placed like the tensor they are combined with (`full_like`). Tensor or pipeline parallelism would be added
here.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import oneflow as flow

Placed = TypeVar("Placed", flow.Tensor, flow.nn.Module)


def replicate(tensor: Placed, device: str) -> Placed:
    """Converts a tensor (or a module, in place) to global tensors with a full copy on every rank."""
    return tensor.to_global(placement=_all_ranks(device), sbp=flow.sbp.broadcast)


def split_rows(tensor: flow.Tensor, device: str) -> flow.Tensor:
    """Returns the global tensor [ranks * R, ...] with `tensor` [R, ...] as this rank's part."""
    return tensor.to_global(placement=_all_ranks(device), sbp=flow.sbp.split(0))


def whole(x: flow.Tensor) -> flow.Tensor:
    """x [R, ...] with complete values on every rank of a replica, and with a complete gradient.

    Where ranks share a replica, they hold summands of a product or of a gradient; this adds them up.
    """
    if not x.is_global or x.placement.ranks.ndim == 1:
        return x
    rows = (flow.sbp.split(0), flow.sbp.broadcast)
    return x.to_global(sbp=rows, grad_sbp=rows)


def full_like(x: flow.Tensor, shape: tuple[int, ...], value: float) -> flow.Tensor:
    """A constant tensor of this shape with the type and device of x; replicated if x is global."""
    if not x.is_global:
        return x.new_full(shape, value)
    return x.new_full(shape, value, placement=x.placement, sbp=flow.sbp.broadcast)


def to_numpy(tensor: flow.Tensor) -> np.ndarray:
    """A copy of the full tensor. (`.numpy()` shares memory with the tensor, which training keeps updating.)"""
    if tensor.is_global:
        tensor = tensor.to_global(sbp=flow.sbp.broadcast).to_local()
    return np.array(tensor.detach().numpy(), copy=True)


def _all_ranks(device: str) -> flow.placement:
    return flow.placement.all(device.split(":")[0])
