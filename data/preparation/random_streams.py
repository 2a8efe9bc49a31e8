"""Random generators of a preparation: a function of the seed, the purpose and the numbers of pieces.

So the records depend neither on the number of processes nor on interruptions.
"""

import numpy as np

PAIRS, ORDER, SPLIT, SHUFFLE, MASK = range(5)  # purposes


def generator(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The generator for a purpose and a piece."""
    return np.random.Generator(np.random.SFC64([seed, purpose, *numbers]))  # the fastest in numpy
