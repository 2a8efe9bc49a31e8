"""Counts lengths, tokens, labels and predictions of records."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class RecordStatistics:
    """Statistics of records, which can be merged across processes."""

    def __init__(self, seq_length: int, vocab_size: int) -> None:
        self.records = 0
        self.lengths = np.zeros(seq_length + 1, np.int64)  # of [CLS] A [SEP] B [SEP]
        self.second = np.zeros(seq_length + 1, np.int64)  # of B [SEP]
        self.tokens = np.zeros(vocab_size, np.int64)  # before masking, without padding
        self.labels = np.zeros(2, np.int64)
        self.predictions = np.zeros(seq_length + 1, np.int64)  # of a record
        self.shown = np.zeros(3, np.int64)  # predictions whose input is [MASK], the token itself, another token

    def add(self, batch: Mapping[str, np.ndarray], mask_id: int | None) -> None:
        """Count R records, given as {feature: [R, L]}; ids must be below the size of the vocabulary."""
        ids, mask = batch["input_ids"], batch["input_mask"]
        self.records += len(ids)
        lengths = mask.sum(1, dtype=np.int32)
        _count(self.lengths, lengths)
        if "segment_ids" in batch:
            _count(self.second, batch["segment_ids"].sum(1, dtype=np.int32))
        if "next_sentence_labels" in batch:
            _count(self.labels, batch["next_sentence_labels"].ravel())
        if "masked_lm_weights" in batch:
            used = batch["masked_lm_weights"] > 0
            _count(self.predictions, np.count_nonzero(used, 1))
            rows = np.flatnonzero(used) // used.shape[1]  # several times faster than nonzero
            flat, answers = rows * ids.shape[1] + batch["masked_lm_positions"][used], batch["masked_lm_ids"][used]
            shown = ids.take(flat)
            _count(self.shown, np.where(shown == answers, 1, np.where(shown == mask_id, 0, 2)))
            ids = ids.copy()
            ids.put(flat, answers)
        _count(self.tokens, np.clip(ids[mask > 0], 0, len(self.tokens) - 1))

    def merge(self, other: "RecordStatistics") -> None:
        """Add the counts of another process."""
        self.records += other.records
        for name, counts in vars(other).items():
            if name != "records":
                vars(self)[name] += counts

    def to_json(self) -> dict[str, Any]:
        """All counts, for a JSON file."""
        return {name: value if name == "records" else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RecordStatistics":
        """The inverse of `to_json`."""
        result = cls(len(content["lengths"]) - 1, len(content["tokens"]))
        for name, value in content.items():
            setattr(result, name, value if name == "records" else np.array(value, np.int64))
        return result

    def summary(self, vocab: Mapping[str, int], made_by: Mapping[str, Any], objective: str) -> dict[str, Any]:
        """The statistics for the report. Shares are between 0 and 1.

        Args:
            vocab: names the tokens.
            made_by: the flags of the preparation, if known. With `bin_size`, padding is also counted for batches cut
                to a multiple of it. With `masking` "dynamic", "sop" pairs are swapped when they are read.
            objective: the records' objective.
        """
        figures = self._sizes(objective, made_by.get("bin_size"))
        text = self.tokens.copy()  # without special tokens
        text[[vocab[token] for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]") if token in vocab]] = 0
        if "[UNK]" in vocab:
            figures["unknown_share"] = int(self.tokens[vocab["[UNK]"]]) / max(1, int(text.sum()))
        if self.labels.sum() and (objective, made_by.get("masking")) != ("sop", "dynamic"):
            figures["label_1_share"] = int(self.labels[1]) / int(self.labels.sum())
        figures |= self._prediction_figures(figures["tokens"])
        most = np.argsort(text)[::-1][:30]
        tokens_of = {index: token for token, index in vocab.items()}
        figures["most_frequent_tokens"] = {tokens_of.get(i, str(i)): int(text[i]) for i in most.tolist() if text[i]}
        return figures

    def _sizes(self, objective: str, bin_size: int | None) -> dict[str, Any]:
        seq_length = len(self.lengths) - 1
        tokens = int((np.arange(seq_length + 1) * self.lengths).sum())
        used = int((self.tokens > 0).sum())
        figures: dict[str, Any] = {
            "records": self.records,
            "tokens": tokens,
            "mean_length": tokens / max(1, self.records),
            "padding_share": 1 - tokens / max(1, self.records * seq_length),
            "length_histogram": self.lengths.tolist(),
            "vocabulary_size": len(self.tokens),
            "vocabulary_used": used,
            "vocabulary_used_share": used / len(self.tokens),
            "objective": objective,
        }
        if bin_size:
            bounds = np.minimum(-(-np.arange(seq_length + 1) // bin_size) * bin_size, seq_length)
            figures["binned_padding_share"] = 1 - tokens / max(1, int((bounds * self.lengths).sum()))
        return figures

    def _prediction_figures(self, tokens: int) -> dict[str, Any]:
        predictions = int(self.shown.sum())
        if not predictions:
            return {}
        return {
            "predictions_per_record": predictions / self.records,
            "predictions_histogram": self.predictions[: int(np.flatnonzero(self.predictions)[-1]) + 1].tolist(),
            "masked_share_of_tokens": predictions / tokens,
            "shown_as_mask": int(self.shown[0]) / predictions,
            "shown_as_itself": int(self.shown[1]) / predictions,
            "shown_as_another": int(self.shown[2]) / predictions,
        }


def _count(counts: np.ndarray, values: np.ndarray) -> None:
    counts += np.bincount(values, minlength=len(counts))
