"""Random numbers that decide the samples of a generator, drawn each time a record is read.

As the masks of dynamic_masking.py, they are a hash of the run's seed and the record's position in the endless sequence
of records. Restarts, the number of ranks, the batch size and the mode do not change them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.counter_random import mix
from data.reading.loader import Batch, Records

_STREAM = np.uint64(0x73616D706C6573)  # unlike the masks and the order of the records, which have the same seed
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def with_draws(records: Records, seed: int) -> Records:
    """The records with what replaced-token detection reads, in batches of R.

    They also have `sampling_draws` float32 [R, P], uniform in [0, 1), and `token_weights` float32 [R, S], 1 for tokens
    and 0 for padding.
    """
    transform = records.transform

    def added(batch: Batch, positions: np.ndarray) -> Batch:
        batch = transform(batch, positions) if transform else batch
        records = mix(mix(np.uint64(seed) ^ _STREAM) ^ positions.astype(np.uint64))  # [R]
        numbers = np.arange(1, batch["masked_lm_positions"].shape[1] + 1, dtype=np.uint64)  # [P]
        with np.errstate(over="ignore"):
            draws = mix(records[:, None] + numbers * _GOLDEN) >> np.uint64(40)  # 24 bits, as many as float32 holds
        weights = batch["input_mask"].astype(np.float32)
        return {**batch, "sampling_draws": draws.astype(np.float32) * np.float32(2**-24), "token_weights": weights}

    return replace(records, transform=added, along_sequence=(*records.along_sequence, "token_weights"))
