"""A permutation for every epoch, without state."""

import numpy as np
import pytest

from data.counter_random import shuffled


@pytest.mark.parametrize("count", [1, 2, 3, 37, 64, 65, 1000])
def test_each_epoch_is_another_permutation(count):
    order = shuffled(np.arange(3 * count), count, seed=5).reshape(3, count)
    assert (np.sort(order) == np.arange(count)).all()
    if count > 30:
        assert len({tuple(epoch) for epoch in order.tolist()}) == 3
        assert (shuffled(np.arange(count), count, seed=6) != order[0]).any()


def test_orders_are_uniform():
    """Each of 5 records has each position in a fifth of the epochs (chi-squared, 16 degrees of freedom)."""
    epochs = 6000
    order = shuffled(np.arange(5 * epochs), 5, seed=1).reshape(epochs, 5)
    table = np.stack([np.bincount(order[:, position], minlength=5) for position in range(5)])
    assert ((table - epochs / 5) ** 2 / (epochs / 5)).sum() < 45  # p < 1e-4 beyond


def test_neighbours_are_scattered():
    order = shuffled(np.arange(1000), 1000, seed=3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.12
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12
