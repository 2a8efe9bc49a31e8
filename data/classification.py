"""Texts, or pairs of texts, with labels, and the records that a classifier reads.

Shapes: `n` rows, `r` records, `S` sequence, `C` labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from configs.model import LongText
from conversion.tokenizer_files import Vocabulary
from data.long_text import cut
from data.tokenization import bulk_tokenizer


@dataclass(frozen=True)
class TextExamples:
    """The rows of one file.

    Attributes:
        path: the file.
        lines: [n], the line of each row in the file, from 1.
        texts: for each text column, [n] texts.
        labels: [n] int32 classes or float32 targets, or float32 [n, C] with 1 for each of several labels; None for a
            set without labels.
        indices: [n], the index column of a GLUE test set, for the leaderboard.
    """

    path: Path
    lines: tuple[int, ...]
    texts: tuple[list[str], ...]
    labels: np.ndarray | None
    indices: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts[0])

    def first(self, count: int | None) -> TextExamples:
        """The first `count` rows, or all of them."""
        return replace(
            self,
            lines=self.lines[:count],
            texts=tuple(column[:count] for column in self.texts),
            labels=self.labels if self.labels is None else self.labels[:count],
            indices=self.indices[:count],
        )


@dataclass(frozen=True)
class LabelLoss:
    """Label weights and smoothing in the loss.

    Attributes:
        weights: [C], the weight of examples with each label; with several labels per text, the weight of each label in
            texts that have it; None means 1.
        smoothing: the fraction of the target that is spread over all labels (Szegedy et al. 2016); needs `weights`.
    """

    weights: np.ndarray | None = None
    smoothing: float = 0.0


class TextRecords:
    """Text examples as records: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, truncated to fit.

    Attributes:
        row: [r], the row of each record, in ascending order; with `long_text` "windows" a row may have several.
    """

    def __init__(
        self,
        examples: TextExamples,
        vocabulary: Vocabulary,
        *,
        max_seq_length: int,
        long_text: LongText = "truncate_tail",
        loss: LabelLoss = LabelLoss(),
    ) -> None:
        self.examples, self._loss = examples, loss
        vocab, tokenizer = vocabulary.ids, bulk_tokenizer(vocabulary)
        encoded = [tokenizer.encode(texts) for texts in examples.texts]
        ends = [1] * len(encoded)  # separators after each text
        ends[0] = vocabulary.separators if len(encoded) > 1 else 1
        cuts = cut(np.stack([counts for _, counts in encoded]), max_seq_length - 1 - sum(ends), long_text)
        self.row, records = cuts.row, len(cuts.row)
        self._share = 1 / np.bincount(self.row)[self.row]  # each record's fraction of its row's weight
        self._input_ids = np.zeros((records, max_seq_length), np.int32)
        self._input_ids[:, 0] = vocab["[CLS]"]
        self._segment_start = np.full(records, max_seq_length)  # where segment 1 begins
        start = np.ones(records, np.int64)
        for text, (ids, counts) in enumerate(encoded):
            if text:
                self._segment_start = start
            first = (np.cumsum(counts) - counts)[self.row]
            kept, head, shift = cuts.kept[text], cuts.head[text], cuts.shift[text]
            inside = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)  # position in the record's text
            record = np.repeat(np.arange(records), kept)
            source = inside + np.where(inside < head[record], 0, shift[record])  # position in the whole text
            self._input_ids[record, start[record] + inside] = ids[first[record] + source]
            start = start + kept
            for _ in range(ends[text]):
                self._input_ids[np.arange(records), start] = vocab["[SEP]"]
                start = start + 1
        self._length = start

    def __len__(self) -> int:
        return len(self.row)

    def location(self, index: int) -> str:
        """The file and line of a record, for messages."""
        return f"{self.examples.path} line {self.examples.lines[self.row[index]]}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids`, `input_mask`, `segment_ids` int32 [r, S] and, for a set with labels, the features of
        `BertForSequenceClassification` that the loss needs."""
        indices = np.asarray(indices, np.int64)
        position = np.arange(self._input_ids.shape[1])
        inside = position < self._length[indices, None]
        batch = {
            "input_ids": self._input_ids[indices],
            "input_mask": inside.astype(np.int32),
            "segment_ids": (inside & (position >= self._segment_start[indices, None])).astype(np.int32),
        }
        return batch | self._label_features(indices)

    @property
    def label_features(self) -> tuple[str, ...]:
        """The names of the features beyond the inputs."""
        return tuple(self._label_features(np.zeros(1, np.int64)))

    def _label_features(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        if self.examples.labels is None:
            return {}
        labels = self.examples.labels[self.row[indices]]
        several = labels.ndim == 2
        features = {"label_ids": labels if several else labels[:, None]}
        weights, example_weights = self._loss.weights, self._share[indices]
        if weights is not None and several:
            features["label_scales"] = np.where(labels > 0, weights, 1).astype(np.float32)
        elif weights is not None:
            example_weights = example_weights * weights[labels]
        if self._loss.smoothing and weights is not None and not several:
            features["label_scales"] = smoothed(labels, self._loss.smoothing, weights)
        if len(self) > len(self.examples) or (weights is not None and not several):
            features["label_weights"] = example_weights[:, None].astype(np.float32)
        return features


def smoothed(labels: np.ndarray, smoothing: float, weights: np.ndarray) -> np.ndarray:
    """float32 [n, C]: the targets of PyTorch's CrossEntropyLoss with `weight` and `label_smoothing`, divided by the
    weight of the example's label."""
    targets = smoothing / len(weights) * np.outer(1 / weights[labels], weights)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets.astype(np.float32)


def balanced_weights(labels: np.ndarray, count: int) -> np.ndarray:
    """[C]: label weights inversely proportional to frequency, with a mean of 1 over the examples, like scikit-learn's
    "balanced". With several labels per text (labels [n, C]): texts without the label divided by texts with it, like
    the `pos_weight` of binary cross entropy."""
    if labels.ndim == 2:
        present = labels.sum(axis=0)
        return np.where(present > 0, (len(labels) - present) / np.maximum(present, 1), 1.0)
    present = np.bincount(labels, minlength=count)
    return np.where(present > 0, len(labels) / (count * np.maximum(present, 1)), 1.0)
