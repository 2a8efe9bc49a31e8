"""The features of every kind of record, declared once.

A record maps features to lists of numbers. The length of a list is the sequence length, the number of masked-LM
predictions, or 1; readers pad shorter lists with the feature's `fill`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Schema = dict[str, tuple[str, int]]  # feature name → ("int32" | "float", length)
DTYPES = {"int32": np.int32, "float": np.float32}


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        name: as in Google's records.
        axis: what determines its length: the sequence length, the maximum number of predictions, or the record
            (length 1).
        bound: the exclusive upper bound of its values: a number, the vocabulary size, or the sequence length; None
            if it is unknown here.
        dtype: the type in the record.
        fill: the value for padding.
    """

    name: str
    axis: Literal["sequence", "predictions", "record"]
    bound: int | Literal["vocab_size", "seq_length"] | None
    dtype: Literal["int32", "float"] = "int32"
    fill: int = 0


FEATURES = {
    feature.name: feature
    for feature in (
        Feature("input_ids", "sequence", "vocab_size"),  # [PAD] is 0 in every published BERT vocabulary
        Feature("input_mask", "sequence", 2),
        Feature("segment_ids", "sequence", 2),
        Feature("masked_lm_positions", "predictions", "seq_length"),
        Feature("masked_lm_ids", "predictions", "vocab_size"),
        Feature("masked_lm_weights", "predictions", 2, dtype="float"),
        Feature("next_sentence_labels", "record", 2),
        Feature("start_positions", "record", "seq_length"),
        Feature("end_positions", "record", "seq_length"),
        Feature("unique_ids", "record", None),
        Feature("label_ids", "record", None),
    )
}


def _on(axis: str) -> tuple[str, ...]:
    return tuple(name for name, feature in FEATURES.items() if feature.axis == axis)


SEQUENCE, PREDICTIONS = _on("sequence"), _on("predictions")

# The features of each kind of record set.
UNMASKED = SEQUENCE  # masks are drawn while training
MASKED = SEQUENCE + PREDICTIONS
SECOND_TASK = ("next_sentence_labels",)  # additional feature if there is a second task
SQUAD_TRAINING = (*SEQUENCE, "start_positions", "end_positions")
SQUAD_EVALUATION = (*SEQUENCE, "unique_ids")


def schema_of(names: Iterable[str], seq_length: int, max_predictions_per_seq: int = 0) -> Schema:
    """The types and lengths of the named features, for records of these lengths."""
    lengths = {"sequence": seq_length, "predictions": max_predictions_per_seq, "record": 1}
    return {name: (FEATURES[name].dtype, lengths[FEATURES[name].axis]) for name in names}


def pretraining_schema(
    seq_length: int, max_predictions_per_seq: int, *, masked: bool = True, second_task: bool = True
) -> Schema:
    """The features of a pretraining record, in the order of Google's records."""
    names = (MASKED if masked else UNMASKED) + (SECOND_TASK if second_task else ())
    return schema_of(names, seq_length, max_predictions_per_seq)


def squad_schema(seq_length: int, is_training: bool) -> Schema:
    """The features of a question-answering window, with its answer's positions or with its unique id."""
    return schema_of(SQUAD_TRAINING if is_training else SQUAD_EVALUATION, seq_length)


def bounds(names: Collection[str], *, vocab_size: int, seq_length: int) -> dict[str, int]:
    """{feature: exclusive upper bound}, for those of `names` that have a bound."""
    sizes = {"vocab_size": vocab_size, "seq_length": seq_length}
    return {
        name: feature.bound if isinstance(feature.bound, int) else sizes[feature.bound]
        for name, feature in FEATURES.items()
        if name in names and feature.bound is not None
    }


def padding(name: str, records: int, length: int) -> np.ndarray:
    """An array [records, length] of padding."""
    feature = FEATURES[name]
    return np.full((records, length), feature.fill, DTYPES[feature.dtype])
