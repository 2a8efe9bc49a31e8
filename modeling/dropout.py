"""Dropout that can be seeded and resumed in both modes.

With our CPU kernels every application of dropout within a forward pass has a number, which a generator carries to the
kernel; the kernel's masks follow from the run's seed, the step and this number (see kernels/src/dropout.cpp).

OneFlow's stock dropout inside `nn.Graph` ignores every seed and starts its sequence anew with each compilation. Where
no seedable kernel stands in for it, the masks are drawn in numpy and handed to the job as inputs, in the order in which
the model applies dropout: `record` finds that order and the shapes, `draw` makes one step's masks, `feed` feeds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import oneflow as flow
import oneflow.nn.functional as F

import kernels


@dataclass(frozen=True)
class Site:
    """One application of dropout: the shape it is applied to, and its rate."""

    shape: tuple[int, ...]
    rate: float


_recorded: list[Site] | None = None
_fed: Iterator[flow.Tensor] | None = None
_generators: list[flow.Generator] = []  # one for each application of dropout in a forward pass
_applied = 0


def dropout(x: flow.Tensor, rate: float) -> flow.Tensor:
    """x [R, H] with each element zeroed at `rate` and the rest scaled by 1 / (1 - rate); rate 0 leaves x as it is."""
    if not rate:
        return x
    if _recorded is not None:
        _recorded.append(Site(tuple(x.shape), rate))
        return x
    if _fed is not None:
        return x * next(_fed)
    if kernels.is_loaded() and not x.is_cuda:
        # The fused op, whose masks have a seed, with nothing to fuse.
        nothing = x.new_zeros(x.shape[1:], sbp=flow.sbp.broadcast if x.is_global else None)
        return flow._C.fused_bias_add_dropout(x, nothing, p=rate, axis=1, generator=generator(x))
    return F.dropout(x, rate)


def restart() -> None:
    """Begins a forward pass: the next application of dropout is its first."""
    global _applied
    _applied = 0


def generator(x: flow.Tensor) -> flow.Generator | None:
    """The generator for the next application of dropout to x: on a CPU its seed is the application's number."""
    global _applied
    if x.is_cuda:
        return None
    if _applied == len(_generators):
        _generators.append(flow.Generator("cpu"))
        _generators[-1].manual_seed(_applied)
    _applied += 1
    return _generators[_applied - 1]


@contextmanager
def record() -> Iterator[list[Site]]:
    """Inside, dropout changes nothing and notes where it would be applied."""
    global _recorded
    _recorded = []
    try:
        yield _recorded
    finally:
        _recorded = None


@contextmanager
def feed(masks: Sequence[flow.Tensor]) -> Iterator[None]:
    """Inside, each application of dropout multiplies by the next of `masks`."""
    global _fed
    _fed = iter(masks)
    try:
        yield
    finally:
        _fed = None


def draw(sites: Sequence[Site], seed: int) -> list[np.ndarray]:
    """One mask a site: float32 of 0 and 1 / (1 - rate), the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    masks = []
    for site in sites:
        keep = generator.random(site.shape, np.float32) >= np.float32(site.rate)
        masks.append(keep.astype(np.float32) * np.float32(1 / (1 - site.rate)))
    return masks
