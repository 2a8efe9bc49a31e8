"""Detects NaN and infinite numbers, at every update without waiting for the device, and in everything that is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import oneflow as flow

import kernels
from utils.errors import UserError


class FiniteUpdates:
    """Counts updates until the first whose loss or gradient norm is NaN or infinite.

    The count is a tensor on the device. Adding never waits for the device; reading does.
    """

    def __init__(self, first_update: int = 0) -> None:
        self._first, self._count, self._poison = first_update, None, None
        kernels.watch_gradient_norms()

    def add(self, *values: flow.Tensor) -> None:
        """Records the loss (of one or more micro-batches) and the gradient norm of one update."""
        for value in (each.detach() for each in values):
            zero = ((value.to_local() if value.is_global else value).float() * 0).sum()  # NaN if one is not finite
            self._poison = zero if self._poison is None else self._poison + zero
        assert self._poison is not None
        finite = (self._poison == 0).float()
        self._count = finite if self._count is None else self._count + finite

    def first_bad(self, updates: int) -> int | None:
        """The number of the first update that is not finite on this rank, or None if all `updates` so far are."""
        bad = updates if self._count is None else self._first + round(float(self._count.numpy()))
        if bad < updates:
            return bad
        return None if kernels.gradient_norms_are_finite() else updates - 1


class NotFiniteError(UserError):
    """Training diverged. The message says what is not finite, without a final period."""


def check_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Raises NotFiniteError if an array contains NaN or infinity; `what` describes the arrays in the message."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise NotFiniteError(f"{what}: {len(bad)} tensors contain NaN or infinite numbers (first: {bad[0]})")


def diverged(problem: object, good: Path | None) -> UserError:
    """The error that ends a run; `good` is its last good checkpoint, if there is one."""
    remedy = "a lower --lr or a longer warmup"
    if good is None:
        return UserError(f"{problem}. No good checkpoint was saved: start over with {remedy}.")
    return UserError(f"{problem}. The last good checkpoint is {good}: continue from it with --resume and {remedy}.")
