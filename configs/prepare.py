"""Flags of `prepare_data.py`; nothing here but `--num_workers` and `--runner` leaves the output as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.checks import at_least
from configs.cli import flag, section
from utils.errors import UserError


def _needed(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name):
            raise UserError(f"--{name} is needed.")


@dataclass(frozen=True)
class TextFlags:
    """What is read."""

    input_file: tuple[str, ...] = flag(
        (),
        "text files, globs, directories, or - for standard input; .gz, .bz2 and .zst are unpacked",
        aliases=("model_name_or_path",),
    )
    text_field: str = flag("text", "where JSON lines hold the text of a document")
    language: str = flag("en", "decides how text that is not one sentence per line is split into sentences")

    def __post_init__(self) -> None:
        _needed(self, "input_file")


@dataclass(frozen=True)
class WorkFlags:
    """How the work is done."""

    num_workers: int | None = flag(None, "processes (default: one per core)")
    memory_mb: int = flag(512, "memory one process may take, about", unit="MB")
    runner: str = flag("local", "whose processes: this machine's, or a Ray cluster's", choices=("local", "ray"))
    overwrite_output_dir: bool = flag(False, "delete what another preparation left in --output_dir")

    def __post_init__(self) -> None:
        at_least(self, 1, "num_workers")
        at_least(self, 64, "memory_mb")


def _remove_duplicates() -> Any:
    return flag(
        "none",
        "of documents, or lines, that are equal, keep the first in the whole input",
        choices=("none", "documents", "lines", "both"),
    )


@dataclass(frozen=True)
class CleanConfig:
    """`prepare_data.py clean`."""

    text: TextFlags = section(TextFlags)
    work: WorkFlags = section(WorkFlags)
    output_dir: str = flag("", "directory for text files: a sentence per line, a blank line between documents")
    documents: str = flag(
        "blank_line",
        "what a document is in plain text: what stands between blank lines (its lines are split, never joined), "
        "or a whole file (blank lines then part its paragraphs, whose lines are joined)",
        choices=("blank_line", "file"),
    )
    remove_duplicates: str = _remove_duplicates()

    def __post_init__(self) -> None:
        _needed(self, "output_dir")


@dataclass(frozen=True)
class VocabConfig:
    """`prepare_data.py vocab`."""

    text: TextFlags = section(TextFlags)
    work: WorkFlags = section(WorkFlags)
    vocab_file: str = flag("", "the file to write")
    vocab_size: int = flag(30522, "entries, special tokens included")
    do_lower_case: bool = flag(True, "lower-case the text and strip its accents")
    min_frequency: int = flag(2, "pairs that occur less often are never joined")
    limit_alphabet: int = flag(1000, "characters kept, the most frequent ones")
    sample_mb: int = flag(256, "text that is looked at, taken evenly from the whole input", unit="MB")
    random_seed: int = flag(12345, "decides which text that is")

    def __post_init__(self) -> None:
        _needed(self, "vocab_file")
        at_least(self, 100, "vocab_size")
        at_least(self, 1, "min_frequency", "limit_alphabet", "sample_mb")


@dataclass(frozen=True)
class ExampleFlags:
    """What a record is."""

    objective: str = flag(
        "nsp",
        "the second task: whether B follows A (nsp), whether A and B are swapped (sop), or no second task, one "
        "segment (none)",
        choices=("nsp", "sop", "none"),
    )
    masking: str = flag(
        "static",
        "whether records hold their masks, or are masked (for sop also swapped) anew each time training reads them",
        choices=("static", "dynamic"),
    )
    packing: str = flag(
        "pairs",
        "records end where documents do (pairs), or documents are joined and cut into full records without padding "
        "(chunks, for --objective none)",
        choices=("pairs", "chunks"),
    )
    output_format: str = flag(
        "ofrecord",
        "OFRecord shards, JSON lines, or a memory-mapped stream of token ids, each once, whose windows of any length "
        "training reads (tokens, for --objective none --packing chunks --masking dynamic)",
        choices=("ofrecord", "jsonl", "tokens"),
    )
    max_seq_length: int = flag(128, "length of a record", aliases=("seq_length",), unit="tokens")
    max_predictions_per_seq: int = flag(20, "most masked tokens of a record", unit="tokens")
    masked_lm_prob: float = flag(0.15, "share of the tokens that are masked")
    do_whole_word_mask: bool = flag(False, "mask all pieces of a word together")
    short_seq_prob: float = flag(0.1, "share of the documents cut into records of a random shorter length")
    dupe_factor: int = flag(10, "how often each document is used, each time cut and masked anew")
    random_seed: int = flag(12345, "decides every random choice")

    def __post_init__(self) -> None:
        at_least(self, 5, "max_seq_length")
        at_least(self, 1, "max_predictions_per_seq", "dupe_factor")
        for name in ("masked_lm_prob", "short_seq_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}, but must be between 0 and 1.")
        if self.max_seq_length > 65535:
            raise UserError(f"--max_seq_length is {self.max_seq_length}, but must be at most 65535.")
        if self.packing == "chunks" and self.objective != "none":
            raise UserError("--packing chunks has no second sentence: give --objective none.")
        if self.output_format == "tokens" and (self.packing, self.masking) != ("chunks", "dynamic"):
            raise UserError(
                "--output_format tokens has neither sentences nor masks: give --objective none --packing chunks "
                "--masking dynamic."
            )
        if self.max_predictions_per_seq > self.max_seq_length:
            raise UserError(
                f"--max_predictions_per_seq is {self.max_predictions_per_seq}, but must be at most --max_seq_length, "
                f"{self.max_seq_length}: lower it."
            )
        if self.random_seed < 0:
            raise UserError("--random_seed must not be negative.")


@dataclass(frozen=True)
class PretrainingDataConfig:
    """`prepare_data.py pretraining`."""

    text: TextFlags = section(TextFlags)
    example: ExampleFlags = section(ExampleFlags)
    work: WorkFlags = section(WorkFlags)
    output_dir: str = flag(
        "",
        "directory for part-00000 … and dataset.json, or a URL such as s3://bucket/records",
        aliases=("output_file",),
    )
    work_dir: str = flag("", "where --output_dir is a URL: the directory to make the set in before it is copied there")
    vocab_file: str = flag("", "vocabulary, or a model directory that holds one")
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip its accents (default: as the vocabulary needs it)"
    )
    remove_duplicates: str = _remove_duplicates()
    num_shards: int = flag(8, "files to write, alike in size to one record (within each bin of --bin_size)")
    bin_size: int | None = flag(
        None,
        "each file holds records of one bin of lengths, up to so many tokens, up to twice as many, …; training then "
        "pads no further than a bin (default: lengths are mixed)",
        unit="tokens",
    )

    def __post_init__(self) -> None:
        _needed(self, "output_dir", "vocab_file")
        if ("://" in self.output_dir) != bool(self.work_dir):
            raise UserError(
                "--output_dir is a URL: give --work_dir, a directory that all processes see, to make the set in."
                if not self.work_dir
                else "--work_dir is for an --output_dir that is a URL; leave it out."
            )
        at_least(self, 1, "num_shards", "bin_size")
        if self.bin_size and self.example.packing == "chunks":
            raise UserError("--bin_size sorts records by length, and those of --packing chunks are all full: drop one.")
        if self.num_shards < self.bins:
            raise UserError(
                f"--num_shards {self.num_shards} is less than the {self.bins} bins that --bin_size makes: raise it."
            )

    @property
    def bins(self) -> int:
        """How many bins of lengths there are; without --bin_size one holds all."""
        return -(-self.example.max_seq_length // (self.bin_size or self.example.max_seq_length))


@dataclass(frozen=True)
class InspectConfig:
    """`prepare_data.py inspect`."""

    input_dir: str = flag("", "directory of part-… files, or one file", aliases=("ofrecord_path", "output_dir"))
    vocab_file: str = flag("", "vocabulary to show the samples with (default: the set's own)")
    num_samples: int = flag(3, "records to show")
    sample_seed: int = flag(0, "decides which")
    report: bool = flag(True, "count over all records and write report.html and report.json, where there are none")
    report_dir: str = flag("", "where (default: the set's directory)")
    num_workers: int | None = flag(None, "processes (default: one per core)")

    def __post_init__(self) -> None:
        _needed(self, "input_dir")
        at_least(self, 0, "num_samples", "sample_seed")
        at_least(self, 1, "num_workers")


@dataclass(frozen=True)
class VerifyConfig:
    """`prepare_data.py verify`."""

    input_dir: str = flag("", "directory of part-… files, or one file", aliases=("ofrecord_path", "output_dir"))
    vocab_file: str = flag("", "vocabulary whose size bounds the ids (default: the set's own)")
    num_workers: int | None = flag(None, "processes (default: one per core)")

    def __post_init__(self) -> None:
        _needed(self, "input_dir")
        at_least(self, 1, "num_workers")
