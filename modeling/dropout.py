"""Dropout whose masks follow from the run's seed, the step and the place, in both modes, so that a run can be resumed
and a layer can be computed again.

The place of an application of dropout is its number in a forward pass, and that pass (the micro-batch) has a number
in its step. With our CPU kernels a generator carries the place to the kernel, which draws the mask from it (see
kernels/src/dropout.cpp); a compiled job counts the passes itself. On other kernels eager mode seeds the framework's
generator where a forward pass, or a layer to be computed again, begins.

OneFlow's stock dropout inside `nn.Graph` ignores every seed and starts its sequence anew with each compilation. Where
no seedable kernel stands in for it, the masks are drawn in numpy and handed to the job as inputs, in the order in which
the model applies dropout: `record` finds that order and the shapes, `draw` makes one step's masks, `feed` feeds them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import oneflow as flow

import kernels
from modeling.layout import full_like


@dataclass(frozen=True)
class Site:
    """One application of dropout: the shape it is applied to, and its rate."""

    shape: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Place:
    """Where a training step stands."""

    forward: int = -1  # the forward pass within the step; -1: none has begun
    applied: int = 0  # how often dropout was applied in it


_recorded: list[Site] | None = None
_fed: Iterator[flow.Tensor] | None = None
_step = (0, 0, 0)  # the run's seed, the step and the rank
_place = Place()
_default_seeded = False  # whether the framework's own generator was, for this place


def begin_step(seed: int, step: int, rank: int) -> None:
    """Begins an optimizer step, in either mode, before its first forward pass.

    Args:
        seed: the run's.
        step: its number.
        rank: this process's, which draws masks of its own for its rows.
    """
    global _step, _place
    kernels.begin_dropout_step(seed, rank, step)
    _step, _place = (seed, step, rank), Place()


def restart() -> None:
    """Begins a forward pass: the next application of dropout is its first."""
    go_to(Place(_place.forward + 1))


def place() -> Place:
    """Where the next application of dropout stands."""
    return _place


def go_to(place: Place) -> None:
    """From here on the masks are drawn that followed, or would follow, from that place of this step on."""
    global _place, _default_seeded
    _place, _default_seeded = place, False


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
        nothing = full_like(x, x.shape[1:], 0.0)
        return flow._C.fused_bias_add_dropout(x, nothing, p=rate, axis=1, generator=generator(x))
    return flow._C.dropout(x, p=rate, generator=generator(x))


def generator(x: flow.Tensor) -> flow.Generator | None:
    """What the next application of dropout to x draws its mask from; None is the framework's own generator."""
    global _place, _default_seeded
    here, _place = _place, Place(_place.forward, _place.applied + 1)
    if kernels.is_loaded() and not x.is_cuda:
        return _carrier(here.applied + (max(0, here.forward) << 32))
    if not _default_seeded:
        flow.manual_seed(_mask_seed(here.forward, here.applied))
        _default_seeded = True
    return None


@functools.lru_cache(maxsize=2**14)  # to seed one waits for all that the framework has yet to compute
def _carrier(seed: int) -> flow.Generator:
    generator = flow.Generator("cpu")
    generator.manual_seed(seed)
    return generator


def _mask_seed(*place: int) -> int:
    """One 63-bit seed of the step and a place in it, spread by numpy's SeedSequence."""
    entropy = [number % 2**64 for number in (*_step, *place)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


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


def draw(sites: Sequence[Site], forward: int) -> list[np.ndarray]:
    """The masks of one forward pass of the step, one a site: float32 of 0 and 1 / (1 - rate)."""
    generator = np.random.Generator(np.random.Philox(_mask_seed(forward)))
    masks = []
    for site in sites:
        keep = generator.random(site.shape, np.float32) >= np.float32(site.rate)
        masks.append(keep.astype(np.float32) * np.float32(1 / (1 - site.rate)))
    return masks
