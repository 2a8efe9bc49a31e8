"""Dynamic loss scaling (Micikevicius et al. 2018) for fp16 in eager mode. A compiled job has OneFlow's own."""

from __future__ import annotations

import numpy as np

INITIAL_SCALE, GROWTH_INTERVAL = 2.0**15, 2000


class LossScale:
    """The factor of the loss that keeps small gradients above fp16's smallest number.

    It doubles after 2,000 updates without overflow, and halves after each overflow.
    """

    def __init__(self) -> None:
        self.value, self.good_steps = INITIAL_SCALE, 0

    @property
    def is_smallest(self) -> bool:
        """Whether an overflow is not the scale's fault."""
        return self.value <= 1

    def record(self, overflows: bool) -> None:
        """Adapts the scale to the result of an update."""
        self.good_steps = 0 if overflows else self.good_steps + 1
        if overflows:
            self.value = max(self.value / 2, 1.0)
        elif self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, np.ndarray]:
        """The scale as a compiled job stores it in a checkpoint."""
        return {
            "loss_scale": np.array([self.value], np.float32),
            "good_steps": np.array([self.good_steps], np.int64),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores the scale; a checkpoint of a run without mixed precision has none, and changes nothing."""
        if "loss_scale" in state:
            self.value = float(state["loss_scale"].reshape(-1)[0])
            self.good_steps = int(state["good_steps"].reshape(-1)[0])
