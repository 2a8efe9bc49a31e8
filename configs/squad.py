"""Flags of question answering: `prepare_data.py squad` and `run_squad.py`."""

from __future__ import annotations

from dataclasses import dataclass

from configs.cli import flag, section
from utils.errors import UserError


@dataclass(frozen=True)
class FeatureFlags:
    """Windows over the contexts."""

    vocab_file: str | None = flag(None, "vocabulary, one token per line; a model directory stands for its vocab.txt")
    do_lower_case: bool = flag(True, "lower-case the text and strip accents: True for uncased vocabularies")
    max_seq_length: int = flag(384, "question and window together", aliases=("seq_length",), unit="tokens")
    doc_stride: int = flag(128, "from the start of one window to the next", unit="tokens")
    max_query_length: int = flag(64, "questions are cut to this", unit="tokens")
    version_2_with_negative: bool = flag(False, "SQuAD 2.0: some questions have no answer")

    def __post_init__(self) -> None:
        if self.max_query_length < 1:
            raise UserError(f"--max_query_length must be at least 1, not {self.max_query_length}.")
        if self.doc_stride < 1:
            raise UserError(f"--doc_stride must be at least 1, not {self.doc_stride}.")
        if self.max_seq_length <= self.max_query_length + 3:
            raise UserError(
                f"--max_seq_length {self.max_seq_length} leaves no room for a context: it must be above "
                f"--max_query_length {self.max_query_length} + 3 ([CLS] and two [SEP])."
            )


@dataclass(frozen=True)
class DecodingFlags:
    """Answers from logits."""

    n_best_size: int = flag(20, "answers per question in nbest_predictions.json, and starts and ends tried per window")
    max_answer_length: int = flag(30, "longest answer", unit="tokens")
    null_score_diff_threshold: float = flag(
        0.0, "SQuAD 2.0: answer nothing where the null score is above the best answer's by more than this"
    )
    verbose_logging: bool = flag(False, "tell where an answer could not be aligned with the original text")

    def __post_init__(self) -> None:
        for name in ("n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class SquadDataConfig:
    """`prepare_data.py squad`."""

    input_file: str = flag("", "a SQuAD JSON file, v1.1 or v2.0")
    output_dir: str = flag("", "where the shards and dataset.json go")
    is_training: bool = flag(False, "write answers' positions (training) instead of unique ids (evaluation)")
    features: FeatureFlags = section(FeatureFlags)
    num_shards: int = flag(1, "part files")
    num_workers: int | None = flag(None, "processes (default: one per core)")
    overwrite_output_dir: bool = flag(False, "delete what another preparation left in --output_dir")

    def __post_init__(self) -> None:
        for name in ("input_file", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing.")
        if not self.features.vocab_file:
            raise UserError("--vocab_file is missing: name the vocab.txt of the model that will be fine-tuned.")
        if self.num_shards < 1:
            raise UserError(f"--num_shards must be at least 1, not {self.num_shards}.")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"--num_workers must be at least 1, not {self.num_workers}.")
