"""The order of training records, as a stateless function of the seed.

A run's records form an endless sequence of epochs, each in its own order. A restart can continue at any position, and
the number of ranks does not affect which records an update uses.
"""

from __future__ import annotations

import numpy as np

from data.counter_random import shuffled

_WINDOW = 64  # groups


class TrainingOrder:
    """The record at each position of the endless sequence: a function of seed, lengths and group size.

    Without lengths it is `shuffled`. With lengths, `shuffled` yields windows of `_WINDOW` groups; the records of a
    window are sorted by length and cut into groups, and the groups come in random order. The records of an
    update therefore have similar lengths, which vary randomly between updates. Windows end at the end of an epoch, and
    groups begin at multiples of their size; incomplete groups at both ends of an epoch get the longest records.
    """

    def __init__(self, count: int, lengths: np.ndarray | None, group: int, seed: int) -> None:
        """
        Args:
            count: records of an epoch.
            lengths: [count], or None to ignore lengths.
            group: how many consecutive records have similar lengths.
            seed: determines the order of every epoch.
        """
        self.count, self.lengths, self.group, self.seed = count, lengths, group, seed
        self._first, self._window = 0, np.zeros(0, np.int64)  # the last window, and the position where it begins

    def records_at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [n]: the indices of the records at n consecutive positions."""
        if self.lengths is None:
            return shuffled(positions, self.count, self.seed)
        position, end = int(positions[0]), int(positions[-1]) + 1
        parts = []
        while position < end:
            if not self._first <= position < self._first + len(self._window):
                self._first, self._window = self._window_at(position, self.lengths)
            parts.append(self._window[position - self._first : end - self._first])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _window_at(self, position: int, lengths: np.ndarray) -> tuple[int, np.ndarray]:
        size, epoch = _WINDOW * self.group, position // self.count
        number = position // size
        first, end = max(number * size, epoch * self.count), min((number + 1) * size, (epoch + 1) * self.count)
        records = shuffled(np.arange(first, end), self.count, self.seed)
        records = records[np.argsort(-lengths[records].astype(np.int64), kind="stable")]
        before = min(-first % self.group, end - first)
        after = min(end % self.group, end - first - before)
        random = np.random.default_rng([self.seed, epoch, number])
        groups = random.permutation(records[before + after :].reshape(-1, self.group))
        groups = random.permuted(groups, axis=1)  # so that all ranks and micro-batches get similar lengths
        return first, np.concatenate([records[:before], groups.ravel(), records[before : before + after]])
