"""Where tensors lie: the one place that knows of placements and SBP signatures.

Alone, and in eager mode, tensors are local. In the compiled jobs of several ranks they are global: parameters and
optimizer state are whole on every rank (`replicate`), batches are shared out by rows (`split_rows`), and constants lie
as what they meet does (`full_like`). Other layouts, of tensor or pipeline parallelism, would begin here.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import oneflow as flow

Placed = TypeVar("Placed", flow.Tensor, flow.nn.Module)


def replicate(tensor: Placed, device: str) -> Placed:
    """The tensor (or the module, in place) as a global one that every rank holds a whole copy of."""
    return tensor.to_global(placement=_all_ranks(device), sbp=flow.sbp.broadcast)


def split_rows(tensor: flow.Tensor, device: str) -> flow.Tensor:
    """The global tensor [ranks * R, ...] of which each rank holds its own [R, ...]."""
    return tensor.to_global(placement=_all_ranks(device), sbp=flow.sbp.split(0))


def full_like(x: flow.Tensor, shape: tuple[int, ...], value: float) -> flow.Tensor:
    """A constant of this shape with x's type, where x is; whole on every rank."""
    if not x.is_global:
        return x.new_full(shape, value)
    return x.new_full(shape, value, placement=x.placement, sbp=flow.sbp.broadcast)


def to_numpy(tensor: flow.Tensor) -> np.ndarray:
    """A copy of the whole tensor's values; `.numpy()` alone shares memory that training goes on writing to."""
    if tensor.is_global:
        tensor = tensor.to_global(sbp=flow.sbp.broadcast).to_local()
    return np.array(tensor.detach().numpy(), copy=True)


def _all_ranks(device: str) -> flow.placement:
    return flow.placement.all(device.split(":")[0])
