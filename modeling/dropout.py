"""Dropout masks drawn outside the model, for compiled jobs whose own dropout can be neither seeded nor resumed.

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


@dataclass(frozen=True)
class Site:
    """One application of dropout: the shape it is applied to, and its rate."""

    shape: tuple[int, ...]
    rate: float


_recorded: list[Site] | None = None
_fed: Iterator[flow.Tensor] | None = None


def dropout(x: flow.Tensor, rate: float) -> flow.Tensor:
    """x with each element zeroed at `rate` and the rest scaled by 1 / (1 - rate); rate 0 leaves x as it is."""
    if not rate:
        return x
    if _recorded is not None:
        _recorded.append(Site(tuple(x.shape), rate))
        return x
    return F.dropout(x, rate) if _fed is None else x * next(_fed)


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
