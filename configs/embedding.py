"""Flags of run_embedding.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.checks import MOST_TOKENS, above, at_least, at_most
from configs.cli import flag, section
from configs.distillation import DistillationFlags
from configs.model import ModelFlags
from configs.pooling import POOLINGS
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags
from utils.errors import UserError

LOSSES = ("multiple_negatives", "cosent", "cosine", "simcse", "cross_encoder")
SCORED_LOSSES = ("cosent", "cosine")  # losses that need scored pairs


@dataclass(frozen=True)
class EmbeddingDataFlags:
    """Data."""

    train_file: str | None = flag(
        None,
        "pairs, triples, scored pairs or sentences to train on: CSV, TSV, JSON lines, or plain text with one sentence "
        "per line; also with .gz",
        metavar="FILE",
    )
    validation_file: str | None = flag(
        None,
        "scored pairs, to correlate scores with cosines, or pairs, for retrieval of the positives",
        metavar="FILE",
    )
    corpus_file: str | None = flag(
        None, "retrieval evaluation: the texts to search, with the columns _id and text", metavar="FILE"
    )
    queries_file: str | None = flag(
        None, "retrieval evaluation: the queries, with the columns _id and text", metavar="FILE"
    )
    qrels_file: str | None = flag(
        None,
        "retrieval evaluation: the relevant texts, with the columns query-id, corpus-id and, optionally, score",
        metavar="FILE",
    )
    text_columns: tuple[str, ...] = flag(
        (),
        "columns with texts: the anchor, the positive and hard negatives, or only the sentence",
        default_text="guessed by name, and printed",
        metavar="NAME",
    )
    score_column: str | None = flag(
        None, "column with the score of a pair", default_text="guessed by name", metavar="NAME"
    )
    delimiter: str | None = flag(
        None, "character between two fields, or tab", default_text="by the file's name", metavar="CHARACTER"
    )
    max_score: float = flag(
        1.0, "the score of two texts with the same meaning; cosine and cross_encoder divide scores by it"
    )
    vocab_file: str | None = flag(
        None, "vocabulary, or a model directory that contains vocab.txt", default_text="the model's"
    )
    do_lower_case: bool | None = flag(
        None,
        "lower-case the text and strip accents",
        default_text="as the model says, else by the vocabulary's entries",
    )
    max_seq_length: int = flag(128, "longer texts are truncated", aliases=("seq_length",), unit="tokens")
    max_train_samples: int | None = flag(None, "train on this many rows at most", default_text="all", unit="rows")
    max_val_samples: int | None = flag(None, "evaluate on this many rows at most", default_text="all", unit="rows")

    def __post_init__(self) -> None:
        at_least(self, 5, "max_seq_length")
        at_most(self, MOST_TOKENS, "max_seq_length")
        at_least(self, 1, "max_train_samples", "max_val_samples")
        above(self, 0, "max_score")
        retrieval = (self.corpus_file, self.queries_file, self.qrels_file)
        if any(retrieval) and not all(retrieval):
            raise UserError("--corpus_file, --queries_file and --qrels_file must be used together: pass all three.")


@dataclass(frozen=True)
class EmbeddingFlags:
    """Embeddings."""

    loss: str | None = flag(
        None,
        "multiple_negatives: rank the positive above all other positives and hard negatives of the batch; cosent: "
        "predict the order of the scores; cosine: predict the scores; simcse: match each sentence with itself under a "
        "different dropout mask; cross_encoder: a model that reads both texts and outputs one score",
        default_text="cosent for scored pairs, simcse for sentences, else multiple_negatives",
        choices=LOSSES,
    )
    temperature: float = flag(0.05, "divides the cosines in multiple_negatives, simcse and cosent")
    symmetric: bool = flag(False, "multiple_negatives: also rank the anchor above the other anchors of the batch")
    pooling: str | None = flag(
        None,
        "the vector of a text: that of [CLS], or the mean or maximum over its tokens",
        default_text="the model's, else mean",
        choices=POOLINGS,
    )
    normalize: bool | None = flag(
        None, "divide each vector by its length", default_text="as the model does, else False"
    )
    matryoshka_dimensions: tuple[int, ...] = flag(
        (),
        "also train these numbers of leading dimensions, so that vectors can be truncated to them",
        unit="dimensions",
    )

    def __post_init__(self) -> None:
        above(self, 0, "temperature")
        if any(size < 1 for size in self.matryoshka_dimensions):
            raise UserError(f"--matryoshka_dimensions must be at least 1, not {min(self.matryoshka_dimensions)}.")
        if self.loss == "cross_encoder" and (self.pooling or self.normalize or self.matryoshka_dimensions):
            raise UserError(
                "--loss cross_encoder produces no vectors: remove --pooling, --normalize and --matryoshka_dimensions."
            )
        if self.symmetric and self.loss not in (None, "multiple_negatives"):
            raise UserError(f"--symmetric only works with --loss multiple_negatives, not {self.loss}: remove it.")


@dataclass(frozen=True)
class EmbeddingConfig:
    """The flags of run_embedding.py."""

    data: EmbeddingDataFlags = section(EmbeddingDataFlags)
    embedding: EmbeddingFlags = section(EmbeddingFlags)
    model: ModelFlags = section(ModelFlags)
    batch: BatchFlags = section(BatchFlags, aliases={"train_batch_size": ("batch_size",)}, default_train_rows=32)
    optimizer: OptimizerFlags = section(OptimizerFlags, lr=2e-5)
    run: RunFlags = section(
        RunFlags, output_dir="embedding_output", epochs=1, do_eval=True, keep_last=1, default_load_optimizer_state=False
    )
    distillation: DistillationFlags = section(DistillationFlags)
    device: DeviceFlags = section(DeviceFlags)
    mode: str = flag("graph", "compile the model, or run it operation by operation", choices=("graph", "eager"))

    most_used: ClassVar[tuple[str, ...]] = (
        *("train_file", "validation_file", "init_checkpoint", "output_dir", "loss", "pooling", "train_batch_size"),
        *("grad_acc_steps", "lr", "epochs", "max_seq_length", "seed", "do_train", "resume"),
    )

    def __post_init__(self) -> None:
        if self.batch.without_padding:
            raise UserError(
                f"{self.batch.without_padding} is not available here, because an update compares texts in rows of one "
                "length: use --padding longest."
            )
        if self.run.do_train and not self.data.train_file:
            raise UserError("--train_file is missing: pass the texts to train on, or pass --do_train False.")
        if not self.run.do_train and not (self.data.validation_file or self.data.corpus_file):
            raise UserError("--do_train False leaves nothing to do: pass --validation_file or --corpus_file.")
