"""Draws masks, and sentence-order swaps, each time a record is read.

The draws are a hash of the run's seed and the record's position in the run's endless sequence of records. They do not
depend on restarts, the number of ranks or the batch size, and differ at each reading.

Shapes: `R` records, `S` sequence, `P` predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.counter_random import mix
from data.reading.chunks import Chunks, choose_chunks
from data.reading.loader import Batch
from data.reading.masking import Masking, choose_words, put_masks, word_numbers
from data.records.features import PREDICTIONS


@dataclass(frozen=True)
class DynamicMasking:
    """Masks unmasked records.

    At most `min(P, max(1, int(n * masked_lm_prob)))` tokens of a record of n tokens, special tokens included, are
    predicted, and never a special token; 80 % of them become [MASK], 10 % stay, 10 % become a random token.
    """

    masking: Masking
    special_ids: tuple[int, ...]  # [PAD], [CLS], [SEP], which are never masked
    seed: int
    swaps: bool = False  # whether half of the pairs are swapped, with label 1 (sentence order)
    chunks: Chunks | None = None  # masks of several words in a row; None: single words
    last_prob: float | None = None  # `masked_lm_prob` at the end of the run, which is reached linearly; None: the same
    run_records: int = 1  # records that the run reads in all

    @classmethod
    def of_vocab(cls, vocab: Mapping[str, int], masking: Masking, seed: int, *, swaps: bool) -> DynamicMasking:
        """The masking for a vocabulary."""
        return cls(masking, tuple(vocab[token] for token in ("[PAD]", "[CLS]", "[SEP]")), seed, swaps)

    def __call__(self, batch: Batch, positions: np.ndarray) -> Batch:
        """Mask R records.

        Args:
            batch: `input_ids`, `input_mask`, `segment_ids` [R, S]; existing masks are removed first.
            positions: int64 [R], each record's position in the endless sequence of records.

        Returns:
            the batch with `masked_lm_*` [R, P], and with `next_sentence_labels` [R, 1] if pairs are swapped.
        """
        batch = unmasked(batch)
        records, length = batch["input_ids"].shape
        draws = _Draws(self.seed, positions)
        if self.swaps:
            swapped = draws.numbers((records, 1)) >> np.uint64(63) == 1  # [R, 1]
            batch |= swap_segments(batch, swapped[:, 0])
            batch["next_sentence_labels"] = swapped.astype(np.int32)
        ids = batch["input_ids"].astype(np.int32)
        tokens = batch["input_mask"].sum(axis=1)
        candidates = (batch["input_mask"] == 1) & ~np.isin(ids, self.special_ids)
        wanted = np.maximum(1, (tokens * self._probability(positions) + 1e-9).astype(np.int64))
        wanted = np.minimum(wanted, self.masking.max_predictions_per_seq)
        if self.chunks:
            # These come first, because how many draws the chunks take depends on the other records of the batch.
            fate, random_tokens = self._fates(draws, ids.shape)
            words = word_numbers(ids, candidates, self.masking.continues_word)
            rows, columns, chunk = choose_chunks(draws.numbers, words, candidates, wanted, self.chunks)
            fates = fate[rows, chunk % length] if self.chunks.one_fate else fate[rows, columns]
        else:
            rows, columns = choose_words(draws.numbers, ids, candidates, wanted, self.masking.continues_word)
            fate, random_tokens = self._fates(draws, ids.shape)
            fates = fate[rows, columns]
        masked = put_masks(ids, rows, columns, fates, random_tokens[rows, columns].astype(np.int32), self.masking)
        return {**batch, **masked}

    def _fates(self, draws: _Draws, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """What may become of each token [R, S]: a float in [0, 1), see `put_masks`, and a random token."""
        fate = (draws.numbers(shape) >> np.uint64(11)) * 2.0**-53
        return fate, draws.numbers(shape) % np.uint64(self.masking.vocab_size)

    def _probability(self, positions: np.ndarray) -> np.ndarray | float:
        """float64 [R]: the fraction of the tokens to mask in records at these positions of the run."""
        first = self.masking.masked_lm_prob
        if self.last_prob is None:
            return first
        return first + (self.last_prob - first) * np.minimum(1.0, positions / self.run_records)


def unmasked(batch: Batch) -> Batch:
    """The batch with masked tokens restored and without prediction features."""
    kept = {name: array for name, array in batch.items() if name not in PREDICTIONS}
    if "masked_lm_weights" in batch:
        rows, numbers = np.nonzero(batch["masked_lm_weights"])
        kept["input_ids"] = batch["input_ids"].copy()
        kept["input_ids"][rows, batch["masked_lm_positions"][rows, numbers]] = batch["masked_lm_ids"][rows, numbers]
    return kept


def swap_segments(batch: Batch, swapped: np.ndarray) -> Batch:
    """`input_ids` and `segment_ids` of `[CLS] A [SEP] B [SEP]` as `[CLS] B [SEP] A [SEP]`, if `swapped` [R]."""
    ids, used = batch["input_ids"], batch["input_mask"] == 1
    position = np.arange(ids.shape[1])
    total = used.sum(axis=1, keepdims=True)  # [R, 1]
    b = (batch["segment_ids"] * used).sum(axis=1, keepdims=True)  # with its [SEP]
    a = total - 1 - b  # with its [SEP]
    # [CLS] stays; then comes B with its [SEP], then A with its [SEP].
    source = np.where(position <= b, position + a, position - b)
    moved = swapped[:, None] & used & (position > 0)
    segments = np.where(moved, position > b, batch["segment_ids"]).astype(batch["segment_ids"].dtype)
    return {"input_ids": np.take_along_axis(ids, np.where(moved, source, position), axis=1), "segment_ids": segments}


class _Draws:
    """Random numbers: one SplitMix64 stream (Steele et al. 2014) per record."""

    def __init__(self, seed: int, positions: np.ndarray) -> None:
        self._base = mix(mix(np.uint64(seed) ^ _STREAM) ^ positions.astype(np.uint64))  # [R]
        self._drawn = 0

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint64 [R, n]: the next n numbers of each record's stream."""
        steps = np.arange(self._drawn + 1, self._drawn + 1 + shape[1], dtype=np.uint64)
        self._drawn += shape[1]
        with np.errstate(over="ignore"):
            return mix(self._base[:, None] + steps * _GOLDEN)


_STREAM = np.uint64(0x6D61736B73)  # makes the stream differ from that of the record order, which has the same seed
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
