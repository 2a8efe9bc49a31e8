"""Dropout with reproducible masks: each mask is a function of the run's seed, the step, the rank, the forward pass
within the step, and the number of the dropout call within that pass.

A resumed run and a recomputed layer therefore draw the same masks again, in both modes:

- With this project's CPU kernels, the seed of the generator that `generator` returns encodes the number of the call
  (and in eager mode that of the forward pass). The kernel derives the mask from it (kernels/src/dropout.cpp). A
  compiled job counts its forward passes itself.
- With other kernels, eager mode seeds OneFlow's default generator at the start of each forward pass and of each
  recomputed layer.
- OneFlow's stock dropout in `nn.Graph` ignores seeds and restarts its sequence at each compilation; on CUDA, all its
  dropout calls and ranks even draw the same numbers. There, the job takes masks as inputs in the order of the dropout
  calls: `record` finds the order and shapes, `draw` (numpy) or `draw_on_cuda` draws the masks of one forward pass, and
  `feed` passes them to the model.
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
    """One dropout call of the model: the shape of its input, and its rate."""

    shape: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class State:
    """The position of dropout within a training step."""

    forward: int = -1  # index of the forward pass within the step; -1 before the first
    calls: int = 0  # dropout calls so far in this forward pass


_recorded: list[Site] | None = None
_fed: Iterator[flow.Tensor] | None = None
_step = (0, 0, 0)  # the run's seed, the step and the rank
_state = State()
_default_seeded = False  # whether OneFlow's default generator has been seeded since `_state` was last set


def begin_step(seed: int, step: int, rank: int) -> None:
    """Begin an optimizer step, in either mode; call it before the step's first forward pass.

    Args:
        seed: the run's seed.
        step: the number of the optimizer step.
        rank: this process's rank. Each rank draws different masks for its rows.
    """
    global _step, _state
    kernels.begin_dropout_step(seed, rank, step)
    _step, _state = (seed, step, rank), State()


def restart() -> None:
    """Begin the next forward pass of the step."""
    set_state(State(_state.forward + 1))


def get_state() -> State:
    """The current state, for `set_state`."""
    return _state


def set_state(state: State) -> None:
    """Continue from a state of the current step. The same state always leads to the same masks."""
    global _state, _default_seeded
    _state, _default_seeded = state, False


def dropout(x: flow.Tensor, rate: float) -> flow.Tensor:
    """Zero each element of x [R, H] with probability `rate` and scale the others by 1 / (1 - rate)."""
    if not rate:
        return x
    if _recorded is not None:
        _recorded.append(Site(tuple(x.shape), rate))
        return x
    if _fed is not None:
        return x * next(_fed)
    if kernels.is_loaded() and not x.is_cuda:
        # The fused op, with a bias of zeros: OneFlow's plain dropout op passes no seed to its kernel.
        zeros = full_like(x, x.shape[1:], 0.0)
        return flow._C.fused_bias_add_dropout(x, zeros, p=rate, axis=1, generator=generator(x))
    return flow._C.dropout(x, p=rate, generator=generator(x))


def generator(x: flow.Tensor) -> flow.Generator | None:
    """The generator for the next dropout call, on x; None means OneFlow's default generator. Counts the call."""
    global _default_seeded
    if kernels.is_loaded() and not x.is_cuda:
        return _seeded_generator(next_seed())
    call = _next_call()
    if not _default_seeded:
        flow.manual_seed(_mask_seed(call.forward, call.calls))
        _default_seeded = True
    return None


def next_seed() -> int:
    """The seed from which this project's kernels derive the masks of the next dropout call. Counts the call."""
    call = _next_call()
    return call.calls + (max(0, call.forward) << 32)


def takes_masks(x: flow.Tensor) -> bool:
    """Whether dropout on x, on CUDA, is a separate call instead of a part of a fused op."""
    return x.is_cuda and (_recorded is not None or _fed is not None)


def _next_call() -> State:
    global _state
    call, _state = _state, State(_state.forward, _state.calls + 1)
    return call


@functools.lru_cache(maxsize=2**14)  # seeding a generator waits until OneFlow has finished all pending work
def _seeded_generator(seed: int) -> flow.Generator:
    generator = flow.Generator("cpu")
    generator.manual_seed(seed)
    return generator


def _mask_seed(*position: int) -> int:
    """A 63-bit seed for a position within the current step, mixed by numpy's SeedSequence."""
    entropy = [number % 2**64 for number in (*_step, *position)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def record() -> Iterator[list[Site]]:
    """Inside the block, dropout returns its input unchanged and appends a `Site` to the list for each call."""
    global _recorded
    _recorded = []
    try:
        yield _recorded
    finally:
        _recorded = None


@contextmanager
def feed(masks: Sequence[flow.Tensor]) -> Iterator[None]:
    """Inside the block, each dropout call multiplies its input by the next of `masks`."""
    global _fed
    _fed = iter(masks)
    try:
        yield
    finally:
        _fed = None


def draw(sites: Sequence[Site], forward: int) -> list[np.ndarray]:
    """The masks of one forward pass of the current step, one per site: float32 values of 0 and 1 / (1 - rate)."""
    generator = np.random.Generator(np.random.Philox(_mask_seed(forward)))
    masks = []
    for site in sites:
        keep = generator.random(site.shape, np.float32) >= np.float32(site.rate)
        masks.append(keep.astype(np.float32) * np.float32(1 / (1 - site.rate)))
    return masks


@functools.cache
def _generator_on(device: str) -> flow.Generator:
    return flow.Generator(device)


def draw_on_cuda(sites: Sequence[Site], forward: int, device: str) -> list[flow.Tensor]:
    """The same as `draw`, from the GPU's generator: other masks, on the device."""
    generator = _generator_on(device)
    generator.manual_seed(_mask_seed(forward))
    masks = []
    for site in sites:
        keep = flow.rand(*site.shape, device=device, generator=generator) >= site.rate
        masks.append(keep.float() * (1 / (1 - site.rate)))
    return masks
