"""Flags of `prepare_data.py`. Only `--num_workers`, `--memory_mb` and `--runner` do not change the output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from configs.checks import MOST_SEED, above, at_least, at_most, given, local, threads
from configs.cli import flag, section
from utils.errors import UserError

# ISO 639-1. Codes of three letters (ISO 639-3) name thousands of languages; any is accepted.
_LANGUAGES = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss "
    "st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu".split()
)


def _names_language(code: str) -> bool:
    """Whether a code such as `en`, `ceb` or `pt-BR` begins with a language's."""
    language = re.split("[-_]", code.lower())[0]
    return language in _LANGUAGES or re.fullmatch("[a-z]{3}", language) is not None


@dataclass(frozen=True)
class TextFlags:
    """Input."""

    input_file: tuple[str, ...] = flag(
        (),
        "text files, globs, directories, or - for standard input; .gz, .bz2 and .zst files are unpacked",
        aliases=("model_name_or_path",),
    )
    text_field: str = flag("text", "field of a JSON line that contains the document's text", metavar="NAME")
    language: str = flag(
        "en", "language for splitting text into sentences, unless it has one sentence per line", metavar="NAME"
    )

    def __post_init__(self) -> None:
        given(self, "input_file")
        if not _names_language(self.language):
            raise UserError(f"--language {self.language} is not a language code of ISO 639: use one such as en or de.")


@dataclass(frozen=True)
class WorkFlags:
    """Processes."""

    num_workers: int | None = flag(None, "number of processes", default_text="one per core")
    memory_mb: int = flag(512, "approximate memory limit of one process", unit="MB")
    runner: str = flag("local", "run the processes on this machine or on a Ray cluster", choices=("local", "ray"))
    overwrite_output_dir: bool = flag(False, "delete the files of another preparation in --output_dir")

    def __post_init__(self) -> None:
        if self.runner == "local":
            threads(self, "num_workers")
        at_least(self, 1, "num_workers")
        at_least(self, 64, "memory_mb")
        at_most(self, 1 << 30, "memory_mb")


def _remove_duplicates() -> Any:
    return flag(
        "none",
        "remove all but the first of equal documents, equal lines, or both, over the whole input",
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
        "documents in plain text: separated by blank lines (lines are split into sentences but never joined), or one "
        "per file (blank lines separate paragraphs, whose lines are joined)",
        choices=("blank_line", "file"),
    )
    remove_duplicates: str = _remove_duplicates()

    def __post_init__(self) -> None:
        given(self, "output_dir")
        local(self, "output_dir")


@dataclass(frozen=True)
class VocabConfig:
    """`prepare_data.py vocab`."""

    text: TextFlags = section(TextFlags)
    work: WorkFlags = section(WorkFlags)
    vocab_file: str = flag("", "file to write")
    vocab_size: int = flag(30522, "size of the vocabulary, including special tokens", unit="entries")
    do_lower_case: bool = flag(True, "lower-case the text and strip accents")
    min_frequency: int = flag(
        2, "minimum count of a pair of pieces to be merged (with --extend: of a word to be added)"
    )
    limit_alphabet: int = flag(1000, "number of characters to keep, starting with the most frequent", unit="characters")
    extend: str | None = flag(
        None,
        "keep the vocabulary of this model and add frequent words of the text that it splits into many pieces",
        metavar="MODEL",
    )
    new_entries: int = flag(1000, "with --extend: maximum number of words to add", unit="words")
    min_pieces: int = flag(3, "with --extend: minimum number of pieces of a word to be added", unit="pieces")
    sample_mb: int = flag(256, "size of the sample, taken evenly from the whole input", unit="MB")
    random_seed: int = flag(12345, "seed of the sample")

    def __post_init__(self) -> None:
        given(self, "vocab_file")
        local(self, "vocab_file")
        at_least(self, 100, "vocab_size")
        at_most(self, 10**7, "vocab_size", "limit_alphabet")
        at_least(self, 1, "min_frequency", "limit_alphabet", "sample_mb", "new_entries")
        at_least(self, 2, "min_pieces")
        at_most(self, 10**6, "new_entries")
        at_most(self, 1 << 30, "min_frequency", "sample_mb")
        at_least(self, 0, "random_seed")
        at_most(self, MOST_SEED, "random_seed")


@dataclass(frozen=True)
class ExampleFlags:
    """Records."""

    objective: str = flag(
        "nsp",
        "second task: whether B follows A (nsp), whether A and B are swapped (sop), or single segments without a "
        "task (none)",
        choices=("nsp", "sop", "none"),
    )
    masking: str = flag(
        "static",
        "store the masks in the records, or draw new masks (and sop swaps) each time training reads a record",
        choices=("static", "dynamic"),
    )
    packing: str = flag(
        "pairs",
        "end records where documents end (pairs), or join documents and cut them into full records without padding "
        "(chunks, with --objective none)",
        choices=("pairs", "chunks"),
    )
    output_format: str = flag(
        "ofrecord",
        "OFRecord shards, JSON lines, or a memory-mapped stream of token ids, from which training reads windows of any "
        "length (tokens, with --objective none --packing chunks --masking dynamic)",
        choices=("ofrecord", "jsonl", "tokens"),
    )
    max_seq_length: int = flag(128, "length of a record", aliases=("seq_length",), unit="tokens")
    max_predictions_per_seq: int = flag(20, "maximum number of masked tokens in a record", unit="tokens")
    masked_lm_prob: float = flag(0.15, "fraction of the tokens to mask")
    do_whole_word_mask: bool = flag(False, "mask all pieces of a word together")
    short_seq_prob: float = flag(0.1, "fraction of the documents to cut into records of a random shorter length")
    dupe_factor: int = flag(
        10, "number of passes over the documents, each with different cuts and masks", unit="passes"
    )
    random_seed: int = flag(12345, "seed of every random choice")

    def __post_init__(self) -> None:
        at_least(self, 5, "max_seq_length")
        at_least(self, 1, "max_predictions_per_seq", "dupe_factor")
        at_most(self, 10**6, "dupe_factor")
        above(self, 0, "masked_lm_prob")
        at_least(self, 0, "short_seq_prob")
        at_most(self, 1, "masked_lm_prob", "short_seq_prob")
        at_most(self, 65535, "max_seq_length")
        if self.packing == "chunks" and self.objective != "none":
            raise UserError("--packing chunks produces no second sentence: pass --objective none.")
        if self.output_format == "tokens" and (self.packing, self.masking) != ("chunks", "dynamic"):
            raise UserError(
                "--output_format tokens stores neither sentences nor masks: pass --objective none --packing chunks "
                "--masking dynamic."
            )
        if self.max_predictions_per_seq > self.max_seq_length:
            raise UserError(
                f"--max_predictions_per_seq is {self.max_predictions_per_seq}, but must be at most --max_seq_length, "
                f"{self.max_seq_length}: lower it."
            )
        at_least(self, 0, "random_seed")
        at_most(self, MOST_SEED, "random_seed")


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
    work_dir: str = flag("", "if --output_dir is a URL: local directory in which the set is built before it is copied")
    vocab_file: str = flag("", "vocabulary, or a model directory")
    do_lower_case: bool | None = flag(
        None, "lower-case the text and strip accents", default_text="as the tokenizer files or the entries say"
    )
    segmentation_file: str | None = flag(
        None,
        "with --do_whole_word_mask: file with the input's sentences, one per line, with spaces between words, so that "
        "the characters of a Chinese word are masked together",
        default_text="each Chinese character is a word",
        metavar="FILE",
    )
    remove_duplicates: str = _remove_duplicates()
    num_shards: int = flag(8, "number of files, equal in size (within each bin of --bin_size)", unit="files")
    bin_size: int | None = flag(
        None,
        "sort records by length into bins of this width, so that each file has records of one bin and training pads "
        "no further than the bin",
        default_text="no bins",
        unit="tokens",
    )

    def __post_init__(self) -> None:
        given(self, "output_dir", "vocab_file")
        if ("://" in self.output_dir) != bool(self.work_dir):
            raise UserError(
                "--output_dir is a URL: pass --work_dir, a directory that all processes see; the set is built there."
                if not self.work_dir
                else "--work_dir is only used if --output_dir is a URL: remove it."
            )
        if self.segmentation_file and (self.example.masking == "dynamic" or not self.example.do_whole_word_mask):
            raise UserError(
                "--segmentation_file only affects whole-word masks that are stored in the records: pass "
                "--do_whole_word_mask and --masking static."
            )
        at_least(self, 1, "num_shards", "bin_size")
        at_most(self, 10**5, "num_shards")
        if self.bin_size and self.example.packing == "chunks":
            raise UserError(
                "--bin_size sorts records by length, but all records of --packing chunks are full: remove one of them."
            )
        if self.num_shards < self.bins:
            raise UserError(
                f"--num_shards {self.num_shards} is less than the {self.bins} bins that --bin_size makes: raise it."
            )

    @property
    def bins(self) -> int:
        """The number of length bins, 1 without --bin_size."""
        return -(-self.example.max_seq_length // (self.bin_size or self.example.max_seq_length))


@dataclass(frozen=True)
class InspectConfig:
    """`prepare_data.py inspect`."""

    input_dir: str = flag("", "directory of part-… files, or one file", aliases=("ofrecord_path", "output_dir"))
    vocab_file: str = flag("", "vocabulary for decoding the samples (default: the set's own)")
    num_samples: int = flag(3, "number of records to show", unit="records")
    sample_seed: int = flag(0, "seed for choosing these records")
    report: bool = flag(True, "read all records and write report.html and report.json, if they do not exist yet")
    report_dir: str = flag("", "directory of the report (default: the set's directory)")
    num_workers: int | None = flag(None, "number of processes", default_text="one per core")

    def __post_init__(self) -> None:
        given(self, "input_dir")
        at_least(self, 0, "num_samples", "sample_seed")
        at_most(self, MOST_SEED, "sample_seed", "num_samples")
        threads(self, "num_workers")


@dataclass(frozen=True)
class VerifyConfig:
    """`prepare_data.py verify`."""

    input_dir: str = flag("", "directory of part-… files, or one file", aliases=("ofrecord_path", "output_dir"))
    vocab_file: str = flag("", "vocabulary whose size limits the ids (default: the set's own)")
    num_workers: int | None = flag(None, "number of processes", default_text="one per core")

    def __post_init__(self) -> None:
        given(self, "input_dir")
        threads(self, "num_workers")
