"""Random numbers and permutations as functions of a counter, without state."""

import numpy as np


def shuffled(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Record numbers at positions of the endless sequence of epochs: a permutation of `range(count)` in each epoch.

    A Feistel network with a keyed hash permutes the numbers below the next power of four; results of `count` and above
    pass through it again until they are below (cycle walking: Black & Rogaway 2002). A permutation in memory would
    take gigabytes per rank for a full corpus.

    Args:
        positions: int64 [n], 0 for the first record of the first epoch.
        count: records of an epoch.
        seed: decides the order of every epoch.

    Returns:
        int64 [n], each in `range(count)`.
    """
    epochs, numbers = np.divmod(positions.astype(np.uint64), np.uint64(count))
    keys = mix(mix(np.uint64(seed)) ^ epochs)
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    pending = np.arange(len(numbers))
    while len(pending):
        left, right = numbers[pending] >> half, numbers[pending] & mask
        for stage in range(len(_STAGE_KEYS)):
            key = keys[pending] ^ _STAGE_KEYS[stage]
            left, right = right, left ^ (mix(right ^ key) & mask)
        numbers[pending] = (left << half) | right
        pending = pending[numbers[pending] >= count]
    return numbers.astype(np.int64)


def mix(x: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


_STAGE_KEYS = mix(np.arange(1, 7, dtype=np.uint64) << np.uint64(32))
