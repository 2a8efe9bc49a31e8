"""Random generators of a preparation, derived from the seed, the purpose and piece numbers.

The records therefore depend neither on the number of processes nor on interruptions.
"""

import numpy as np

PAIRS, ORDER, SPLIT, SHUFFLE, MASK = range(5)  # purposes


def generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """Returns the generator for a purpose and a piece."""
    return np.random.Generator(np.random.SFC64([seed, purpose, *numbers]))  # the fastest in numpy
