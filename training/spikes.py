"""Skips updates whose gradient norm is far above the recent ones (--skip_loss_spikes)."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

import numpy as np

from utils.messages import warn

STATE = "gradient_norms"  # the array's name in a checkpoint's optimizer state
_WINDOW, _LEAST = 64, 16


class SpikeFilter:
    """Compares each gradient norm with the median of up to 64 norms before it, once there are 16.

    Norms of skipped updates also count, so that the median adapts to a lasting change. Updates with NaN and infinite
    norms are not skipped, because they end the run (training/finiteness.py).

    Args:
        factor: an update is skipped if its norm is more than `factor` times the median.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._norms: deque[float] = deque(maxlen=_WINDOW)

    @property
    def limit(self) -> float:
        """The largest norm with which the next update is performed."""
        return self.factor * median(self._norms) if len(self._norms) >= _LEAST else math.inf

    def leaves_out(self, norm: float, step: int) -> bool:
        """Records the gradient norm of update `step`; returns whether to skip the update, with a warning."""
        limit = self.limit
        self._norms.append(norm)
        spike = limit < norm < math.inf
        if spike:
            warn(
                f"update {step} is skipped: its gradient norm {norm:.3g} is more than --spike_factor {self.factor:g} "
                f"times the recent median, {limit / self.factor:.3g}."
            )
        return spike

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint stores: {"gradient_norms": float64 [up to 64]}."""
        return {STATE: np.array(self._norms, np.float64)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores the norms from a checkpoint, which has none if it was written without the flag."""
        self._norms = deque(state.get(STATE, np.zeros(0)).tolist(), _WINDOW)
