"""Placement of tensors: the only module that uses OneFlow's placements and SBP signatures.

Tensors are local in a single process and in eager mode. The compiled job of several ranks uses global tensors:

- With data parallelism alone, the ranks form a row. Parameters and optimizer state have a full copy on every rank
  (`replicate`), and batches are split by rows (`split_rows`).
- With `--tensor_parallel`, the ranks form a grid of replicas, each of several consecutive ranks, and a signature has
  two parts: one for the replicas, one for the ranks of a replica. These divide the weights that `split_axis` names
  (Shoeybi et al. 2019), read the same rows, and add up their partial results (`whole`).
"""

from __future__ import annotations

import re
from typing import TypeVar

import numpy as np
import oneflow as flow
from oneflow import nn

Model = TypeVar("Model", bound=nn.Module)

# The axis of each weight that the ranks of a replica divide: attention heads, intermediate features, vocabulary.
_SPLIT_AXES = {
    r"self\.(query|key|value)\.(weight|bias)$": 0,
    r"intermediate\.(dense|gate)\.(weight|bias)$": 0,
    r"encoder\.layer\.\d+\.(attention\.)?output\.dense\.weight$": 1,
    r"embeddings\.word_embeddings\.weight$": 0,
    r"cls\.predictions\.bias$": 0,
}


def split_axis(name: str) -> int | None:
    """The axis along which the ranks of a replica divide the parameter of this name; None: each has all of it."""
    return next((axis for pattern, axis in _SPLIT_AXES.items() if re.search(pattern, name)), None)


def replicate(tensor: flow.Tensor, device: str, tensor_parallel: int = 1) -> flow.Tensor:
    """The global tensor with a full copy on every rank."""
    placement = _ranks(device, tensor_parallel)
    return tensor.to_global(placement=placement, sbp=_replicated(placement))


def place_parameter(tensor: flow.Tensor, name: str, device: str, tensor_parallel: int = 1) -> flow.Tensor:
    """The global tensor of a parameter, or of its moments, whose full value each rank has."""
    axis = split_axis(name)
    if not tensor.is_global:
        tensor = replicate(tensor, device, tensor_parallel)
    if tensor_parallel == 1 or axis is None:
        return tensor
    return tensor.to_global(sbp=(flow.sbp.broadcast, flow.sbp.split(axis)))


def place_parameters(model: Model, device: str, tensor_parallel: int = 1) -> Model:
    """Converts the parameters of a model, in place, to global tensors."""
    placement = _ranks(device, tensor_parallel)
    model.to_global(placement=placement, sbp=_replicated(placement))
    if tensor_parallel > 1:
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                placed = place_parameter(parameter.data, f"{prefix}.{name}", device, tensor_parallel)
                setattr(module, name, nn.Parameter(placed, parameter.requires_grad))
    return model


def place_like(values: flow.Tensor, tensor: flow.Tensor) -> flow.Tensor:
    """`values`, whose full value each rank has, placed like `tensor`."""
    if not tensor.is_global:
        return values
    placement = tensor.placement
    return values.to_global(placement=placement, sbp=_replicated(placement)).to_global(sbp=tensor.sbp)


def split_rows(tensor: flow.Tensor, device: str, tensor_parallel: int = 1) -> flow.Tensor:
    """Returns the global tensor [replicas * R, ...] with `tensor` [R, ...] as the part of this rank's replica."""
    placement = _ranks(device, tensor_parallel)
    return tensor.to_global(placement=placement, sbp=_by_rows(placement))


def whole(x: flow.Tensor) -> flow.Tensor:
    """x [R, ...] with complete values on every rank of a replica, and with a complete gradient.

    Without `--tensor_parallel` that is x itself. With it, the ranks of a replica have summands of a product, or of the
    gradient of a factor, which are added up.
    """
    if not x.is_global or x.placement.ranks.ndim == 1:
        return x
    rows = _by_rows(x.placement)
    return x.to_global(sbp=rows, grad_sbp=rows)


def full_like(x: flow.Tensor, shape: tuple[int, ...], value: float) -> flow.Tensor:
    """A constant tensor of this shape with the type and device of x; replicated if x is global."""
    if not x.is_global:
        return x.new_full(shape, value)
    return x.new_full(shape, value, placement=x.placement, sbp=_replicated(x.placement))


def positions_like(x: flow.Tensor, length: int) -> flow.Tensor:
    """int64 [length]: 0, 1, 2, … on the device of x; replicated if x is global."""
    if not x.is_global:
        return flow.arange(length, device=x.device)
    return flow.arange(length, placement=x.placement, sbp=_replicated(x.placement))


def to_numpy(tensor: flow.Tensor) -> np.ndarray:
    """A copy of the full tensor; all ranks must call this in the same order.

    (`.numpy()` shares memory with the tensor, which training keeps updating.)
    """
    if tensor.is_global:
        tensor = tensor.to_global(sbp=_replicated(tensor.placement)).to_local()
    return np.array(tensor.detach().numpy(), copy=True)


def _ranks(device: str, tensor_parallel: int) -> flow.placement:
    kind = device.split(":")[0]
    row = flow.placement.all(kind)
    if tensor_parallel == 1:
        return row
    return flow.placement(kind, np.asarray(row.ranks).reshape(-1, tensor_parallel).tolist())


def _replicated(placement: flow.placement) -> tuple[flow.sbp.sbp, ...]:
    return (flow.sbp.broadcast,) * placement.ranks.ndim


def _by_rows(placement: flow.placement) -> tuple[flow.sbp.sbp, ...]:
    return (flow.sbp.split(0), *_replicated(placement)[1:])
