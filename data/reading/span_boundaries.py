"""The tokens before and after each masked span, from which the span-boundary objective predicts its tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.reading.loader import Batch, Records


def with_boundaries(records: Records) -> Records:
    """The records with `span_boundaries` and `span_offsets`, as `boundaries` returns them."""
    transform = records.transform

    def added(batch: Batch, positions: np.ndarray) -> Batch:
        batch = transform(batch, positions) if transform else batch
        length = batch["input_ids"].shape[1]
        around, offsets = boundaries(batch["masked_lm_positions"], batch["masked_lm_weights"], length)
        return {**batch, "span_boundaries": around, "span_offsets": offsets}

    return replace(records, transform=added)


def boundaries(positions: np.ndarray, weights: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The boundaries of the span of each prediction, and its place in the span.

    A span is a maximal run of predicted tokens, so the tokens at its boundaries are not predicted themselves.

    Args:
        positions: int [R, P], the predicted tokens.
        weights: [R, P], 0 for padding.
        length: the number of tokens of a record.

    Returns:
        int32 [R, 2*P], the positions of the token before the span of each prediction, then of those after it; and int32
        [R, P], the number of predicted tokens before it in its span. All are 0 for padding.
    """
    rows = np.arange(len(positions))[:, None]
    real = weights > 0
    predicted = np.zeros((len(positions), length), bool)
    predicted[np.broadcast_to(rows, positions.shape)[real], positions[real]] = True
    places = np.broadcast_to(np.arange(length), predicted.shape)
    before = np.maximum.accumulate(np.where(predicted, 0, places), axis=1)[rows, positions]
    backwards = np.where(predicted, length - 1, places)[:, ::-1]
    after = np.minimum.accumulate(backwards, axis=1)[:, ::-1][rows, positions]
    around = np.concatenate([before * real, after * real], axis=1)
    return around.astype(np.int32), (np.maximum(positions - before - 1, 0) * real).astype(np.int32)
