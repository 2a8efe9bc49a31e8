"""The boundaries of masked spans, against a search from each prediction."""

import numpy as np

from data.reading.span_boundaries import boundaries


def test_boundaries_and_offsets():
    positions = np.array([[1, 2, 3, 7, 0], [9, 4, 6, 5, 0]])
    weights = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    around, offsets = boundaries(positions, weights, 11)
    assert around.tolist() == [[0, 0, 0, 6, 0, 4, 4, 4, 8, 0], [8, 3, 3, 3, 0, 10, 7, 7, 7, 0]]
    assert offsets.tolist() == [[0, 1, 2, 0, 0], [0, 0, 2, 1, 0]]
    assert around.dtype == offsets.dtype == np.int32


def test_boundaries_are_the_nearest_tokens_that_are_not_predicted():
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = np.sort(rng.choice(np.arange(1, 22), 11, replace=False))
        around, offsets = boundaries(chosen[None], np.ones((1, 11)), 23)
        for number, position in enumerate(chosen):
            before = max(i for i in range(position) if i not in chosen)
            after = min(i for i in range(position, 23) if i not in chosen)
            assert (around[0, number], around[0, 11 + number]) == (before, after)
            assert offsets[0, number] == position - before - 1
