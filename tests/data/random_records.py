"""Random values for records of every type."""

import numpy as np

SCHEMA = {"input_ids": ("int32", 7), "a_long_name_of_weights": ("float", 5), "label": ("int32", 1)}


def examples(records, schema=SCHEMA, seed=3):
    rng = np.random.default_rng(seed)
    limits = [100, 300, 40_000, 2**31 - 1]
    return {
        name: rng.standard_normal((records, length)).astype(np.float32)
        if kind == "float"
        else rng.integers(-5 if seed % 2 else 0, limits[seed % 4], (records, length)).astype(np.int32)
        for name, (kind, length) in schema.items()
    }
