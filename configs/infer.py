"""Flags of run_infer.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.checks import at_least
from configs.cli import flag
from utils.errors import UserError

# Flags of the earlier script that have nothing to decide any more.
RETIRED = {
    "attention_probs_dropout_prob": "inference drops nothing out.",
    "hidden_dropout_prob": "inference drops nothing out.",
}
_TASKS = ("fill-mask", "next-sentence", "question-answering", "text-classification", "feature-extraction")
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
    "type_vocab_size",
)


@dataclass(frozen=True)
class InferConfig:
    """What to ask which model."""

    model_path: str = flag("", "a model directory, a run's output directory, or a checkpoint of any format")
    use_lazy_model: bool = flag(False, "the checkpoint is one of lazy OneFlow (0.2 to 0.4)")
    trust_checkpoint: bool = flag(False, "the checkpoint is trusted: allow formats that are read by unpickling")
    vocab_file: str | None = flag(None, "vocabulary, in place of the model directory's vocab.txt")
    do_lower_case: bool | None = flag(None, "whether the vocabulary is uncased (default: what the model says)")

    task: str | None = flag(None, "what to do (default: what the model's head is made for)", choices=_TASKS)
    text: tuple[str, ...] = flag((), "texts to answer")
    text_pair: str | None = flag(None, "second text, for next-sentence and pairs")
    question: str | None = flag(None, "question about --context")
    context: str | None = flag(None, "where the answer to --question is looked for")
    input_path: str | None = flag(None, "file of texts or of JSON objects, one a line; - for standard input")
    output_path: str | None = flag(
        None, "write answers here as JSON lines, one for each input line; - for standard output"
    )
    top_k: int | None = flag(None, "answers for each mask or question (default: 5 tokens, 1 answer)")
    max_answer_length: int = flag(15, "question-answering: longest answer", unit="tokens")
    doc_overlap: int = flag(128, "question-answering: what neighbouring windows of a long context share", unit="tokens")
    version_2_with_negative: bool = flag(False, "question-answering: there may be no answer")
    pooling: str = flag("tokens", "feature-extraction: vectors of what", choices=("tokens", "first", "mean"))

    mode: str | None = flag(
        None,
        "compile the model, or run it operation by operation (default: graph on CUDA, eager on a CPU)",
        choices=("graph", "eager"),
    )
    device: str | None = flag(None, "cpu, cuda or cuda:N (default: CUDA if it is usable)")
    precision: str = flag(
        "fp32",
        "precision of matrix products on a CPU; auto: the fastest that this CPU has instructions for",
        choices=("fp32", "bf16", "int8", "auto"),
    )
    int8_keep: tuple[str, ...] = flag(
        (), "int8: products left in higher precision, such as output (every layer's) or 3.output (one layer's)"
    )
    batch_size: int = flag(32, "rows computed together, at most")
    num_threads: int | None = flag(None, "CPU threads (default: all cores)")
    cpu_kernels: bool = flag(True, "use the CPU kernels built by `make setup`")
    seq_length: int | None = flag(
        None, "longest input (default: the model's; windows: 384)", aliases=("s",), unit="tokens"
    )
    max_predictions_per_seq: int | None = flag(None, "fill-mask: most [MASK]s in one text")

    config_file: str | None = flag(
        None, "the model's configuration file, in place of the model directory's", aliases=("config",)
    )
    hidden_size: int | None = flag(None, "the model's size where no file tells it, checked where one does")
    hidden_size_per_head: int | None = flag(None, "likewise: hidden size divided by heads")
    num_hidden_layers: int | None = flag(None, "likewise")
    num_attention_heads: int | None = flag(None, "likewise (default: hidden size / 64)", aliases=("a",))
    intermediate_size: int | None = flag(None, "likewise")
    max_position_embeddings: int | None = flag(None, "likewise")
    vocab_size: int | None = flag(None, "likewise")
    type_vocab_size: int | None = flag(None, "likewise")

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model_path is missing: name a model directory or a checkpoint.")
        at_least(
            self, 1, "batch_size", "num_threads", "max_answer_length", "top_k", "max_predictions_per_seq", *self.sizes()
        )
        if self.doc_overlap < 0:
            raise UserError(f"--doc_overlap must not be negative, not {self.doc_overlap}.")
        if (self.question is None) != (self.context is None):
            raise UserError("--question and --context belong together: give both.")
        if sum(bool(given) for given in (self.text, self.question is not None, self.input_path)) > 1:
            raise UserError("--text, --question and --input_path exclude each other: give one of them.")
        if self.text_pair is not None and len(self.text) != 1:
            raise UserError("--text_pair is the second text to one --text.")

    def sizes(self) -> dict[str, Any]:
        """The model's sizes that were given."""
        names = (*_SIZES, "hidden_size_per_head")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
