"""Opens the record sets of a pretraining run and checks that flags, vocabulary and model fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.model import BertConfig
from configs.pretraining import PretrainingDataFlags
from conversion.tokenizer_files import VOCAB_FILE, Vocabulary, read_vocabulary
from data.reading.chunks import Chunks
from data.reading.dynamic_masking import DynamicMasking
from data.reading.loader import Batch, Records
from data.reading.masking import Masking
from data.records.features import pretraining_schema
from data.records.record_set import RecordSet
from data.sources import check_agreement, equally_long, objective, open_sources
from data.tokenization import load_vocab
from training.start import named_vocabulary
from utils.errors import UserError
from utils.messages import warn

# Relative tolerance within which whole shards are held out for --val_fraction. Documents are rarely in several shards.
_SHARD_TOLERANCE = 0.2
_CHUNKS = {"word": None, "ngram": Chunks.ngrams(), "span": Chunks.spans()}  # by --masking_chunks


@dataclass(frozen=True)
class PretrainingRecords:
    """The record sets for training and evaluation, checked against the flags."""

    flags: PretrainingDataFlags
    source: RecordSet
    training: Records
    evaluation: Records | None
    seq_length: int
    max_predictions_per_seq: int

    @classmethod
    def open(cls, flags: PretrainingDataFlags, do_train: bool = True) -> PretrainingRecords:
        """Opens the sets; raises UserError if they are not pretraining records or disagree with the flags."""
        if not do_train and not flags.ofrecord_path:
            flags = replace(flags, ofrecord_path=flags.val_ofrecord_path)  # evaluation only needs its own set
        if not flags.ofrecord_path:
            raise UserError("--ofrecord_path is missing: pass a directory that `prepare_data.py pretraining` wrote.")
        source = open_sources(
            flags.ofrecord_path,
            parts=flags.train_data_part,
            seq_length=flags.seq_length,
            max_predictions_per_seq=None if flags.masking == "dynamic" else flags.max_predictions_per_seq,
        )
        held_out = (
            open_sources(flags.val_ofrecord_path, seq_length=flags.seq_length) if flags.val_ofrecord_path else None
        )
        if held_out:
            source, held_out = equally_long(source, held_out)
        lengths = _lengths(source)
        _check_labels(flags, source)
        dynamic = _is_dynamic(flags, source)
        _check_lengths(flags, source, lengths, dynamic)
        training, evaluation = _split(flags, source, held_out)
        predictions = flags.max_predictions_per_seq if dynamic else None
        return cls(flags, source, training, evaluation, lengths[0], predictions or lengths[1])

    @property
    def objective(self) -> str:
        """The objective that the records were made for."""
        return objective(self.source)

    @property
    def vocab_size(self) -> int | None:
        """The vocabulary size, if the data or its vocabulary provides it."""
        size: int | None = self.source.metadata.get("vocab_size")
        return size if size or not self._own_vocab else read_vocabulary(self._own_vocab).size

    @property
    def _own_vocab(self) -> Path | None:
        """The vocabulary in the flags, or the one next to the data."""
        beside = Path(self.source.directory) / VOCAB_FILE
        if self.flags.vocab_file:
            return named_vocabulary(self.flags.vocab_file)
        return beside if beside.exists() else None

    @property
    def do_lower_case(self) -> bool | None:
        """Whether the text was lower-cased; None if neither the flags nor the data say so."""
        stored = self.source.metadata.get("do_lower_case")
        if self.flags.do_lower_case is not None and stored is not None and self.flags.do_lower_case != stored:
            raise UserError(
                f"--do_lower_case {self.flags.do_lower_case} disagrees with {self.source.name}, which was made with "
                f"{stored}: omit the flag."
            )
        return stored if self.flags.do_lower_case is None else self.flags.do_lower_case

    def vocabulary(self, file: Path | None) -> Vocabulary | None:
        """The vocabulary in a file, with the rules that the data was made with."""
        return read_vocabulary(file, self.do_lower_case, settings_in=Path(self.source.directory)) if file else None

    def for_model(
        self, bert: BertConfig, vocab_file: Path | None, seed: int, run_records: int = 1
    ) -> tuple[Records, Records | None]:
        """The records for training and evaluation; their values are checked against the model's sizes when read.

        Args:
            bert: the model's shape.
            vocab_file: for dynamic masking.
            seed: determines the dynamic masks.
            run_records: what the run reads in all, over which the fraction of masked tokens changes.

        Raises:
            UserError: the sequences or the vocabulary are too large for the model, or a vocabulary is missing.
        """
        if self.seq_length > bert.max_position_embeddings:
            raise UserError(
                f"--max_position_embeddings {bert.max_position_embeddings} is less than the data's sequences of "
                f"{self.seq_length} tokens: raise it."
            )
        if self.vocab_size is not None and self.vocab_size > bert.vocab_size:
            raise UserError(
                f"--vocab_size {bert.vocab_size} is less than the {self.vocab_size} entries of the vocabulary that "
                f"{self.source.name} was made with: omit the flag or raise it."
            )
        below = {
            "input_ids": bert.vocab_size,
            "segment_ids": bert.segment_bound,
            "masked_lm_ids": bert.vocab_size,
            "masked_lm_positions": self.seq_length,
            "masked_lm_weights": 2,
            "next_sentence_labels": 2,
        }
        masking = self._masking(vocab_file, seed)
        if masking:
            below["input_ids"] = min(bert.vocab_size, masking.masking.vocab_size)
        transform = _transform(masking, self.flags.skip_mlm)
        evaluation = replace(self.evaluation, below=below, transform=transform) if self.evaluation else None
        if masking and self.flags.masked_lm_prob_end is not None:
            changing = replace(masking, last_prob=self.flags.masked_lm_prob_end, run_records=run_records)
            transform = _transform(changing, self.flags.skip_mlm)
        return replace(self.training, below=below, transform=transform), evaluation

    def _masking(self, vocab_file: Path | None, seed: int) -> DynamicMasking | None:
        flags = self.flags
        if not _is_dynamic(flags, self.source):
            return None
        if vocab_file is None:
            raise UserError("--masking dynamic needs the vocabulary: set it with --vocab_file.")
        vocab = load_vocab(vocab_file)
        masking = Masking.of_vocab(
            vocab,
            max_predictions_per_seq=self.max_predictions_per_seq,
            masked_lm_prob=flags.masked_lm_prob,
            whole_words=flags.do_whole_word_mask,
        )
        swaps = objective(self.source) == "sop" and "masked_lm_ids" not in self.source.schema
        made = DynamicMasking.of_vocab(vocab, masking, seed, swaps=swaps)
        return replace(made, chunks=_CHUNKS[flags.masking_chunks])

    def find_vocab(self, bert: BertConfig, starts_with: Path | None) -> Path | None:
        """The vocabulary to save with the model: that of the flags, the data, or the initial weights.

        Raises:
            UserError: the data was made with a different vocabulary, or it is larger than the model's.
        """
        path = self._own_vocab or starts_with
        if path is None:
            warn("the model is saved without a vocabulary: set one with --vocab_file.")
            return None
        vocabulary = read_vocabulary(path)
        if vocabulary.size > bert.vocab_size:
            raise UserError(
                f"--vocab_file {path} has {vocabulary.size} entries, more than the model's {bert.vocab_size}: pass the "
                "model's vocabulary, or raise --vocab_size."
            )
        if starts_with and read_vocabulary(starts_with).ids != vocabulary.ids:
            raise UserError(
                f"{path} is not the vocabulary of the initial weights, {starts_with}: prepare the data with that "
                "one, or start from other weights."
            )
        digest = self.source.metadata.get("vocab_sha256")
        if digest and digest != vocabulary.sha256:
            raise UserError(
                f"--vocab_file {path} is not the vocabulary that {self.source.name} was made with: pass that one, or "
                "prepare the data again."
            )
        return path


def _transform(masking: DynamicMasking | None, skip_mlm: bool) -> Callable[[Batch, np.ndarray], Batch] | None:
    """A function that masks a batch, and shortens the positions if masked-LM is skipped; None to do neither."""
    if masking is None and not skip_mlm:
        return None

    def transform(batch: Batch, positions: np.ndarray) -> Batch:
        batch = masking(batch, positions) if masking else batch
        if skip_mlm:  # the model decodes at least one position, and all positions if none are given
            batch = {**batch, "masked_lm_positions": batch["masked_lm_positions"][:, :1]}
        return batch

    return transform


def _split(
    flags: PretrainingDataFlags, source: RecordSet, held_out: RecordSet | None
) -> tuple[Records, Records | None]:
    """The records for training and evaluation, limited as the flags say."""
    training, evaluation = Records(source), None
    if held_out:
        check_agreement(source, held_out)
        evaluation = Records(held_out)
    elif flags.val_fraction:
        boundary = _held_out_from(flags.val_fraction, source)
        training, evaluation = Records(source, 0, boundary), Records(source, boundary)
    if flags.train_dataset_size is not None and flags.train_dataset_size > len(training):
        warn(f"--train-dataset-size {flags.train_dataset_size} is more than the {len(training)} records found.")
    count = min(flags.train_dataset_size or len(training), flags.max_train_samples or len(training), len(training))
    if evaluation and flags.max_val_samples:
        evaluation = replace(evaluation, count=min(flags.max_val_samples, len(evaluation)))
    return replace(training, count=count), evaluation


def _held_out_from(fraction: float, source: RecordSet) -> int:
    """The first record to hold out: the start of a shard if that is close to the fraction, else any record.

    Raises:
        UserError: there are too few records.
    """
    shards = len(source.shards)
    held_out = round(fraction * shards)
    if 0 < held_out < shards and abs(held_out / (fraction * shards) - 1) <= _SHARD_TOLERANCE:
        return int(source.shard_starts[shards - held_out])
    boundary = len(source) - max(1, round(fraction * len(source)))
    if boundary < 1:
        raise UserError(
            f"--val_fraction {fraction} of {len(source)} records leaves none to train on: lower it, or pass "
            "--val_ofrecord_path."
        )
    return boundary


def _check_lengths(flags: PretrainingDataFlags, source: RecordSet, lengths: tuple[int, int], dynamic: bool) -> None:
    """Raises UserError if the flags set lengths that differ from the records'; dynamic masks may have any number."""
    for name, found in zip(("seq_length", "max_predictions_per_seq"), lengths, strict=True):
        asked = getattr(flags, name)
        if asked is not None and asked != found and not (dynamic and name == "max_predictions_per_seq"):
            raise UserError(
                f"--{name} {asked} disagrees with {source.name}, whose records have {found}: omit the flag or "
                "prepare the data again."
            )


def _is_dynamic(flags: PretrainingDataFlags, source: RecordSet) -> bool:
    """Whether new masks are drawn each time a record is read."""
    return flags.masking == "dynamic" or "masked_lm_ids" not in source.schema


def _check_labels(flags: PretrainingDataFlags, source: RecordSet) -> None:
    """Raises UserError if the records do not have the masks or labels that the flags need."""
    for name, default in (("masking_chunks", "word"), ("masked_lm_prob_end", None)):
        if getattr(flags, name) != default and not _is_dynamic(flags, source):
            raise UserError(f"--{name} has no effect on the masks in {source.name}: give --masking dynamic.")
    if flags.masking == "static" and _is_dynamic(flags, source):
        raise UserError(f"--masking static, but {source.name} contains no masks: omit the flag.")
    if flags.skip_mlm and objective(source) == "none":
        raise UserError(f"--skip_mlm leaves nothing to train, because {source.name} has no second task: omit the flag.")


def _lengths(source: RecordSet) -> tuple[int, int]:
    """(seq_length, max_predictions_per_seq) of pretraining records; the second is 20 if unknown."""
    schema = source.schema
    masked = "masked_lm_positions" in schema
    if "input_ids" not in schema or not (masked or schema.keys() <= pretraining_schema(1, 1).keys()):
        raise UserError(
            f"{source.name} does not contain pretraining records (its features are {', '.join(schema)}): use another "
            "directory."
        )
    if masked:
        predictions = schema["masked_lm_positions"][1]
    else:  # in proportion to the length that the set was prepared for
        share = schema["input_ids"][1] / source.metadata.get("seq_length", schema["input_ids"][1])
        predictions = max(1, round(share * source.metadata.get("max_predictions_per_seq", 20)))
    lengths = schema["input_ids"][1], predictions
    for name, feature in pretraining_schema(*lengths).items():
        optional = name == "next_sentence_labels" or (name.startswith("masked_lm_") and not masked)
        if schema.get(name) != feature and not (optional and name not in schema):
            raise UserError(
                f"{source.name}: the feature {name} is {schema.get(name)}, but should be {feature}: prepare the data "
                "again."
            )
    return lengths
