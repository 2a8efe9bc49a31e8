"""Flags of run_infer.py."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args

from configs.checks import MOST_ROWS, MOST_TOKENS, at_least, at_most, threads
from configs.cli import flag, section
from configs.model import LongText
from utils.errors import UserError

# Flags of the earlier script, accepted without effect.
RETIRED = {
    "attention_probs_dropout_prob": "inference uses no dropout.",
    "hidden_dropout_prob": "inference uses no dropout.",
}
_TASKS = (
    "fill-mask",
    "next-sentence",
    "question-answering",
    "text-classification",
    "token-classification",
    "feature-extraction",
    "similarity",
    "search",
)


@dataclass(frozen=True)
class ModelSourceFlags:
    """Model."""

    model_path: str = flag(
        "",
        "model directory, output directory of a run, or checkpoint of any format",
        aliases=("model_name_or_path",),
        metavar="MODEL",
    )
    vocab_file: str | None = flag(None, "vocabulary", default_text="the model directory's")
    do_lower_case: bool | None = flag(
        None, "whether the vocabulary is uncased", default_text="as the model says, else by the vocabulary's entries"
    )
    config_file: str | None = flag(
        None, "configuration of the model", default_text="the model directory's", aliases=("config",)
    )
    use_lazy_model: bool = flag(False, "the checkpoint is in the format of lazy OneFlow (0.2 to 0.4)")
    trust_checkpoint: bool = flag(False, "trust the checkpoint: read flow.save directories, which contain a pickle")

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model_path is missing: pass a model directory or a checkpoint.")


@dataclass(frozen=True)
class SizeFlags:
    """Sizes of the model, needed only if no configuration contains them."""

    hidden_size: int | None = flag(None, "hidden size")
    hidden_size_per_head: int | None = flag(None, "head size; the hidden size is this times the heads")
    num_hidden_layers: int | None = flag(None, "encoder layers")
    num_attention_heads: int | None = flag(None, "attention heads", default_text="hidden size / 64", aliases=("a",))
    intermediate_size: int | None = flag(None, "size of the feed-forward layer")
    max_position_embeddings: int | None = flag(None, "longest sequence that the model accepts", unit="tokens")
    vocab_size: int | None = flag(None, "entries of the vocabulary")
    type_vocab_size: int | None = flag(None, "segment types")

    def __post_init__(self) -> None:
        at_least(self, 1, *self.given())

    def given(self) -> dict[str, Any]:
        """{name: size} of the flags that were given."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: size for name, size in sizes.items() if size is not None}


@dataclass(frozen=True)
class RowFlags:
    """Questions and answers."""

    task: str | None = flag(None, "task", default_text="the task of the model's head", choices=_TASKS)
    text: tuple[str, ...] = flag((), "texts to answer", metavar="TEXT")
    text_pair: str | None = flag(None, "second text of a pair", metavar="TEXT")
    question: str | None = flag(None, "question about --context", metavar="TEXT")
    context: str | None = flag(None, "text that contains the answer to --question", metavar="TEXT")
    input_path: str | None = flag(
        None, "file with one text or one JSON object per line; - is standard input", metavar="FILE"
    )
    output_path: str | None = flag(
        None,
        "file for the answers, one JSON object per input line; - is standard output",
        default_text="tables on standard output",
        metavar="FILE",
    )
    corpus_path: str | None = flag(
        None,
        "search: the corpus, one text or one JSON object with text per line, or its vectors (.npy)",
        metavar="FILE",
    )
    top_k: int | None = flag(
        None, "answers for each mask, question or search", default_text="5 tokens, 1 answer, 10 texts"
    )
    max_answer_length: int = flag(15, "question-answering: longest answer", unit="tokens")
    doc_overlap: int = flag(128, "question-answering: overlap of the windows of a long context", unit="tokens")
    long_text: str | None = flag(
        None,
        "text-classification: how to read texts that are too long, as in run_classifier.py",
        default_text="as in training, else an error",
        choices=get_args(LongText),
    )
    aggregation_strategy: str = flag(
        "first",
        "token-classification: ungrouped tokens (none), or entities from the tags of tokens (simple) or of words; "
        "a word has the tag of its first token (first), of the mean (average) or of the most certain token (max)",
        choices=("none", "simple", "first", "average", "max"),
    )
    align_to_words: bool | None = flag(
        None,
        "question-answering: extend answers to whole words",
        default_text="True except in kana, Thai, Lao, Khmer and Burmese",
    )
    version_2_with_negative: bool = flag(False, "question-answering: allow questions without an answer")
    pooling: str | None = flag(
        None,
        "feature-extraction, similarity and search: a vector per token, the first token's vector, or the mean or "
        "maximum over the tokens",
        default_text="the model's; else tokens, or mean for similarity and search",
        choices=("tokens", "first", "mean", "max"),
    )
    dimensions: int | None = flag(
        None, "keep this number of leading dimensions of a pooled vector", default_text="all", unit="dimensions"
    )
    max_predictions_per_seq: int | None = flag(
        None, "fill-mask: the largest number of [MASK] in one text", default_text="no limit"
    )

    def __post_init__(self) -> None:
        at_least(self, 1, "max_answer_length", "top_k", "max_predictions_per_seq", "dimensions")
        at_least(self, 0, "doc_overlap")
        at_most(self, MOST_TOKENS, "max_answer_length", "max_predictions_per_seq", "doc_overlap")
        if (self.question is None) != (self.context is None):
            raise UserError("--question and --context must be used together: pass both.")
        if sum(bool(source) for source in (self.text, self.question is not None, self.input_path)) > 1:
            raise UserError("--text, --question and --input_path cannot be combined: pass only one of them.")
        if (self.task == "search") != (self.corpus_path is not None):
            raise UserError("--task search and --corpus_path must be used together: pass both.")
        if self.pooling == "tokens" and self.task in ("similarity", "search"):
            raise UserError(f"--task {self.task} needs one vector per text: use --pooling first, mean or max.")
        if self.text_pair is not None and len(self.text) != 1:
            raise UserError("--text_pair needs exactly one --text.")


@dataclass(frozen=True)
class SpeedFlags:
    """Devices and speed."""

    mode: str | None = flag(
        None,
        "compile the model, or run it operation by operation",
        default_text="graph on CUDA, eager on a CPU",
        choices=("graph", "eager"),
    )
    device: str | None = flag(None, "cpu, cuda or cuda:N", default_text="CUDA if it is usable", metavar="DEVICE")
    precision: str = flag(
        "fp32",
        "precision of matrix products: fp16 on CUDA, bf16 and int8 on a CPU; auto: the fastest one that the CPU "
        "supports",
        choices=("fp32", "fp16", "bf16", "int8", "auto"),
    )
    use_fp16: bool = flag(
        False, "half-precision matrix products, as in training: fp16 on CUDA, bf16 on a CPU", aliases=("fp16",)
    )
    int8_keep: tuple[str, ...] = flag(
        (),
        "with int8: products to keep in higher precision, such as output (in every layer) or 3.output (in one layer)",
        metavar="NAME",
    )
    batch_size: int = flag(32, "largest number of rows in a batch", unit="rows")
    seq_length: int | None = flag(
        None, "maximum input length", default_text="the model's limit; 384 for windows", aliases=("s",), unit="tokens"
    )
    num_threads: int | None = flag(None, "CPU threads", default_text="one per core")
    cpu_kernels: bool = flag(True, "use the CPU kernels that `make setup` builds")

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size")
        at_most(self, MOST_ROWS, "batch_size")
        threads(self, "num_threads")
        if self.use_fp16 and self.precision not in ("fp32", "fp16"):
            raise UserError(f"--use_fp16 contradicts --precision {self.precision}: pass only one of them.")


@dataclass(frozen=True)
class InferConfig:
    """The flags of run_infer.py."""

    model: ModelSourceFlags = section(ModelSourceFlags)
    rows: RowFlags = section(RowFlags)
    speed: SpeedFlags = section(SpeedFlags)
    sizes: SizeFlags = section(SizeFlags)

    most_used: ClassVar[tuple[str, ...]] = (
        *("model_path", "task", "text", "text_pair", "question", "context", "input_path", "output_path", "top_k"),
        *("vocab_file", "device", "batch_size"),
    )
