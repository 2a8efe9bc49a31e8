"""Updates that are left out because their gradient norm is far beyond the recent ones (--skip_loss_spikes)."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

import numpy as np

from utils.messages import warn

STATE = "gradient_norms"  # the name among the arrays of a checkpoint's optimizer state
_WINDOW, _LEAST = 64, 16


class SpikeFilter:
    """Compares each gradient norm with the median of up to 64 norms before it, once there are 16.

    Norms of updates that are left out count, too: after a lasting change of their size the median follows.
    NaN and infinite norms are never left out, because they end the run (training/finiteness.py).

    Args:
        factor: an update is left out if its norm is more than `factor` times the median.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._norms: deque[float] = deque(maxlen=_WINDOW)

    @property
    def limit(self) -> float:
        """The largest norm with which the next update is made."""
        return self.factor * median(self._norms) if len(self._norms) >= _LEAST else math.inf

    def leaves_out(self, norm: float, step: int) -> bool:
        """Takes the gradient norm of update `step`; returns whether the update is left out, and warns if it is."""
        limit = self.limit
        self._norms.append(norm)
        spike = limit < norm < math.inf
        if spike:
            warn(
                f"update {step} is left out: its gradient norm {norm:.3g} is more than --spike_factor {self.factor:g} "
                f"times the recent median, {limit / self.factor:.3g}."
            )
        return spike

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint stores: {"gradient_norms": float64 [up to 64]}."""
        return {STATE: np.array(self._norms, np.float64)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores the norms of a checkpoint; one that was made without the flag has none."""
        self._norms = deque(state.get(STATE, np.zeros(0)).tolist(), _WINDOW)
