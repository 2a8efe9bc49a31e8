"""`load` reads a checkpoint of any format and returns a `Model`, which answers texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import oneflow as flow

from configs.pooling import Pooling
from conversion import Checkpoint, read_checkpoint
from conversion.names import CLASSIFIER, DISCRIMINATOR, ENCODER, MASKED_LM, NEXT_SENTENCE, SQUAD, rows
from conversion.tokenizer_files import read_vocabulary
from data.tokenization import tokenizer_of
from inference.errors import ArgumentError, MissingVocabulary, UnsupportedTask
from inference.feature_extraction import FeatureExtraction, Similarity
from inference.fill_mask import FillMask
from inference.next_sentence import NextSentence
from inference.packed import AskedPrecision, can_pack, check_kept, choose_precision
from inference.pipelines import Pipeline
from inference.question_answering import QuestionAnswering
from inference.runner import Example, Mode, Runner
from inference.search import Corpus, Search, corpus_rows, embedded, open_vectors
from inference.text import TextEncoder, softmax
from inference.text_classification import TextClassification
from inference.token_classification import TokenClassification
from kernels.cuda import check_capability
from kernels.encoder import Precision
from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from modeling.electra import ReplacedTokenDetector
from modeling.pretrained import PretrainedModel
from utils.errors import UserError
from utils.messages import warn

TAGGER = "classifier of tokens"  # has a classifier's parameters, but a different configuration
# The head that each task needs. The first task in this order that a model supports is its default.
TASKS = {
    "question-answering": SQUAD,
    "text-classification": CLASSIFIER,
    "token-classification": TAGGER,
    "fill-mask": MASKED_LM,
    "next-sentence": NEXT_SENTENCE,
    "feature-extraction": ENCODER,
}
_VECTORS = ("feature-extraction", "similarity", "search")  # tasks that every model supports, with its pooling
_PIPELINES: dict[str, Callable[..., Any]] = {
    "question-answering": QuestionAnswering,
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "fill-mask": FillMask,
    "next-sentence": NextSentence,
    "feature-extraction": FeatureExtraction,
    "similarity": Similarity,
    "search": Search,
}
_CLASSES: dict[str, type[PretrainedModel]] = {
    SQUAD: BertForQuestionAnswering,
    CLASSIFIER: BertForSequenceClassification,
    TAGGER: BertForTokenClassification,
    MASKED_LM: BertForPreTraining,
    NEXT_SENTENCE: BertForPreTraining,
    ENCODER: BertModel,
    DISCRIMINATOR: ReplacedTokenDetector,
}
# Rows are answered in chunks: large enough to sort by length, small enough to bound memory.
_ROWS_PER_CHUNK, _TOKENS_PER_CHUNK, _VECTORS_PER_CHUNK = 4096, 131072, 16384
# For models without a vocabulary: "[CLS] the capital of france is [MASK] . [SEP]" in Google's uncased vocabulary.
_FIXED_IDS, _FIXED_POSITION = (101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102), 6


def load(
    path: str | Path,
    *,
    mode: Mode | None = None,
    device: str | None = None,
    precision: AskedPrecision = "fp32",
    int8_keep: tuple[str, ...] = (),
    batch_size: int = 32,
    max_batch_tokens: int | None = None,
    seq_length: int | None = None,
    vocab_file: str | Path | None = None,
    do_lower_case: bool | None = None,
    source: str = "auto",
    config: str | Path | dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> Model:
    """Loads a model of any format.

    The number of CPU threads is set per process, because OneFlow reads it when it is imported. Export OMP_NUM_THREADS
    or call `kernels.configure(threads)` before you import `inference`.

    Args:
        path: a model directory, a training run's output directory, a weights file, a TensorFlow prefix or a lazy
            checkpoint.
        mode: "graph" compiles each batch shape once; "eager" starts immediately and uses less memory (default: graph on
            CUDA, eager on a CPU).
        device: "cpu", "cuda" or "cuda:I" (default: CUDA if it is usable).
        batch_size: the largest number of rows in a batch.
        max_batch_tokens: the largest number of tokens in a batch, padding included (default: what the device computes
            fastest).
        seq_length: the longest input, in tokens (default: the limit of the model, or of its sentence-transformers
            files).
        vocab_file: a vocabulary to use instead of the one next to the weights.
        do_lower_case: whether the vocabulary is uncased (default: as tokenizer_config.json says, else inferred from the
            vocabulary's entries).
        source: the checkpoint's format, or "auto" to detect it.
        config: a configuration file, or its content, to use instead of the one next to the weights.
        sizes: settings that the configuration does not contain, such as {"num_attention_heads": 12}.
        trust_checkpoint: whether to read `flow.save` directories, which contain a pickle.
        precision: the precision of matrix products: "fp32", "fp16", "bf16", "int8", or "auto" for the fastest one that
            this CPU supports. "fp16" is for CUDA and stands for "bf16" on a CPU. "bf16" and "int8" need eager mode and
            the CPU kernels.
        int8_keep: with int8, the encoder's products to keep in higher precision: "output" in every layer, "3.output"
            in one layer.

    Raises:
        ArgumentError: an argument contradicts the checkpoint or this machine.
        UserError: the checkpoint or the vocabulary cannot be read.
    """
    checkpoint = read_checkpoint(path, source, config=config, sizes=sizes, trust=trust_checkpoint)
    device = _device(device)
    mode = mode or ("eager" if device == "cpu" else "graph")
    number = device.partition(":")[2]
    if mode == "graph" and number.strip("0"):
        raise ArgumentError(
            "device",
            f"{device} only works in eager mode: for graph mode, set CUDA_VISIBLE_DEVICES={number} and use cuda.",
        )
    check_kept(int8_keep, checkpoint.config.num_hidden_layers)
    pooling = Pooling.find(checkpoint.directory)
    if pooling and pooling.max_seq_length:
        seq_length = seq_length or min(pooling.max_seq_length, checkpoint.config.max_position_embeddings)
    return Model(
        checkpoint,
        mode=mode,
        device=device,
        precision=choose_precision(precision, device, mode, has_int8=can_pack(checkpoint.config)),
        int8_keep=int8_keep,
        batch_size=batch_size,
        max_batch_tokens=max_batch_tokens,
        encoder=_encoder(checkpoint, vocab_file, do_lower_case, seq_length),
        pooling=pooling,
    )


def load_module(
    path: str | Path,
    *,
    source: str = "auto",
    config: str | Path | dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> PretrainedModel:
    """Loads the OneFlow module of a checkpoint of any format, in evaluation mode and without a tokenizer.

    `module(input_ids=…, input_mask=…, segment_ids=…)` returns a dict with `sequence_output` [B, S, H], after the final
    norm if the model has one, `pooled_output` [B, H] and, with a head, `logits`.

    Args:
        path: as in `load`.
        source, config, trust_checkpoint: as in `load`.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    checkpoint = read_checkpoint(path, source, config=config, trust=trust_checkpoint)
    heads = groups(checkpoint)
    only = heads.isdisjoint({SQUAD, CLASSIFIER, TAGGER, MASKED_LM, NEXT_SENTENCE})
    return build(checkpoint, DISCRIMINATOR if only and DISCRIMINATOR in heads else None).eval()


def build(checkpoint: Checkpoint, head: str | None = None) -> PretrainedModel:
    """Builds the module for a checkpoint, with the given head or its own. Missing parameters are zero."""
    present = groups(checkpoint)
    head = head or next(head for head in TASKS.values() if head in present)
    model = _CLASSES[head](checkpoint.config)
    prefix = "" if hasattr(model, "bert") else "bert."
    arrays = {name.removeprefix(prefix): array for name, array in checkpoint.state.items()}
    for name, parameter in model.named_parameters():
        arrays.setdefault(name, np.zeros(tuple(parameter.shape), np.float32))
    model.load_arrays(arrays, source=str(checkpoint.path))
    return model


def groups(checkpoint: Checkpoint) -> set[str]:
    """The parts of BERT (encoder, heads) that are completely in the checkpoint."""
    config = checkpoint.config
    wanted = [row for row in rows(config.num_hidden_layers) if config.has_parameter(row.name)]
    found = {row.group for row in wanted} - {row.group for row in wanted if row.name not in checkpoint.state}
    return {TAGGER if group == CLASSIFIER and config.labels_tokens else group for group in found}


class Model:
    """A model that answers texts: one method for each task, and `stream` for many rows.

    The methods accept single texts or lists; for a list they return a list of answers.

    Attributes:
        config: the model's shape.
        path: the path it was loaded from.
        tasks: the tasks that it supports; the first one is the default.
        pooling: how token vectors are combined, if the model's directory defines it (sentence-transformers).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        mode: Mode,
        device: str,
        batch_size: int,
        encoder: TextEncoder | None,
        max_batch_tokens: int | None = None,
        precision: Precision | Literal["fp16"] = "fp32",
        int8_keep: tuple[str, ...] = (),
        pooling: Pooling | None = None,
    ) -> None:
        self.config, self.path = checkpoint.config, checkpoint.path
        present = groups(checkpoint)
        self.tasks = [task for task, head in TASKS.items() if head in present]
        self._encoder = encoder
        self.pooling = pooling
        module = build(checkpoint)
        self._runner = Runner(module, mode, device, batch_size, max_batch_tokens, precision, int8_keep)

    def fill_mask(self, text: str | list[str], *, top_k: int = 5) -> Any:
        """The most probable tokens for each [MASK]: {score, token, token_str, sequence}, best first.

        The answer is a list, or one list per mask if the text has several.
        """
        return self._answer("fill-mask", _rows(text=text), top_k=top_k)

    def next_sentence(self, text: str | list[str], text_pair: str | list[str]) -> Any:
        """Whether `text_pair` follows `text`: {label, score}."""
        return self._answer("next-sentence", _rows(text=text, text_pair=text_pair))

    def question_answering(self, question: str | list[str], context: str | list[str], **options: Any) -> Any:
        """The best answers in `context`: a list of {score, start, end, answer}.

        `options` are the attributes of `QuestionAnswering`, such as `top_k`.
        """
        return self._answer("question-answering", _rows(question=question, context=context), **options)

    def text_classification(
        self, text: str | list[str], text_pair: str | list[str] | None = None, **options: Any
    ) -> Any:
        """All labels, the most probable first: a list of {label, score}.

        `options` can contain `long_text`: how to read texts that are too long (default: as in training).
        """
        return self._answer("text-classification", _rows(text=text, text_pair=text_pair), **options)

    def token_classification(self, text: str | list[str], *, aggregation_strategy: str = "first") -> Any:
        """The entities of a text: a list of {entity_group, score, word, start, end}; see `TokenClassification`."""
        return self._answer("token-classification", _rows(text=text), aggregation_strategy=aggregation_strategy)

    def feature_extraction(self, text: str | list[str], **options: Any) -> Any:
        """One vector per token, or one per text if the model or the option `pooling` says so.

        `options` are the attributes of `FeatureExtraction`, such as `pooling` and `dimensions`.
        """
        return self._answer("feature-extraction", _rows(text=text), **options)

    def similarity(self, text: str | list[str], text_pair: str | list[str], **options: Any) -> Any:
        """The cosine of the vectors of two texts: {score}."""
        return self._answer("similarity", _rows(text=text, text_pair=text_pair), **options)

    def search(self, text: str | list[str], corpus: Corpus, *, top_k: int = 10, **options: Any) -> Any:
        """The `top_k` texts of a corpus that are closest to a text, best first: {score, number, text}."""
        return self._answer("search", _rows(text=text), corpus=corpus, top_k=top_k, **options)

    def corpus(self, path: str | Path, **options: Any) -> Corpus:
        """Opens a corpus for `search`: a file of texts, which are embedded now, or of vectors (.npy).

        `options` are those of `search`, such as `pooling` and `dimensions`.
        """
        path = Path(path)
        if path.suffix == ".npy":
            return open_vectors(path, options.get("dimensions") or self.config.hidden_size)
        starts: list[int] = []
        return embedded(path, self.stream("search", corpus_rows(path, starts), **options), starts)

    def stream(self, task: str, rows: Iterable[Mapping[str, Any] | UserError], **options: Any) -> Iterator[Any]:
        """Answers rows in order. For a row that cannot be answered, yields a UserError.

        Args:
            task: one of `TASKS`, "similarity" or "search".
            rows: {field: text}, read lazily; a UserError is passed through.
            options: the attributes of the task's pipeline.
        """
        pipeline = self.pipeline(task, **options)
        chunk: list[tuple[Any, list[Example] | UserError]] = []
        tokens, most_tokens = 0, _VECTORS_PER_CHUNK if pipeline.keeps_sequences else _TOKENS_PER_CHUNK
        for row in rows:
            try:
                encoded = row if isinstance(row, UserError) else pipeline.encode(row)
            except UserError as error:
                encoded = error
            chunk.append((row, encoded))
            tokens += sum(len(example.input_ids) for example in encoded) if isinstance(encoded, list) else 0
            if len(chunk) >= _ROWS_PER_CHUNK or tokens >= most_tokens:
                yield from self._answers(pipeline, chunk)
                chunk, tokens = [], 0
        yield from self._answers(pipeline, chunk)

    def pipeline(self, task: str, **options: Any) -> Pipeline:
        """The pipeline of a task.

        Raises:
            UnsupportedTask: the model has no head for the task.
            MissingVocabulary: the model has no vocabulary.
        """
        if task not in self.tasks and task not in _VECTORS:
            raise UnsupportedTask(
                "task",
                f"{task} needs a {TASKS.get(task, 'head')}, which {self.path} does not have: it supports "
                f"{', '.join(self.tasks)}.",
            )
        own: dict[str, Any] = {}
        if task == "text-classification":
            own = {
                "labels": self.config.shown_labels,
                "problem_type": self.config.problem_type,
                "long_text": self.config.long_text,
                "longest": self.config.max_seq_length,
            }
        elif task == "token-classification":
            own = {"labels": self.config.shown_labels}
        encoder = self.encoder
        if task in _VECTORS:
            options = self._vector_options(options)
            if self.pooling or task != "feature-extraction":
                encoder = replace(encoder, keep="start")
        return _PIPELINES[task](encoder, **{**own, **options})

    @property
    def encoder(self) -> TextEncoder:
        """Converts texts to examples; raises MissingVocabulary if the model has no vocabulary."""
        if self._encoder is None:
            raise MissingVocabulary(
                "vocab_file",
                f"is missing: {self.path} has no vocab.txt or tokenizer.json. Use the vocabulary that the model was "
                "trained with.",
            )
        return self._encoder

    @property
    def runner(self) -> Runner:
        """Computes examples in batches."""
        return self._runner

    def _vector_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Adds the model's pooling to options that do not set it."""
        options = {name: value for name, value in options.items() if value is not None}
        dimensions = options.get("dimensions")
        if dimensions is not None and dimensions > self.config.hidden_size:
            raise ArgumentError("dimensions", f"{dimensions} is above the model's {self.config.hidden_size}: lower it.")
        if self.pooling is None:
            return options
        return {"pooling": self.pooling.kind, "normalize": self.pooling.normalize} | options

    @property
    def has_vocabulary(self) -> bool:
        return self._encoder is not None

    @property
    def num_graphs(self) -> int:
        """The number of batch shapes that have been compiled."""
        return len(self._runner.graphs)

    def fixed_example(self, top_k: int = 5) -> tuple[list[int], list[tuple[int, float]]]:
        """Answers without a vocabulary: a fixed sequence of ids, and the best (id, probability) at its mask."""
        ids = np.array(_FIXED_IDS, np.int32) % self.config.vocab_size
        example = Example(ids, np.zeros_like(ids), np.array([_FIXED_POSITION], np.int32))
        ((_, outputs),) = self._runner.run([example], FillMask.outputs)
        probabilities = softmax(outputs["prediction_scores"][0])
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return ids.tolist(), [(int(i), float(probabilities[i])) for i in best]

    def _answers(self, pipeline: Pipeline, chunk: list[tuple[Any, list[Example] | UserError]]) -> Iterator[Any]:
        examples = [(row, e) for row, (_, encoded) in enumerate(chunk) if isinstance(encoded, list) for e in encoded]
        reduced: dict[int, Any] = {}
        for index, outputs in self._runner.run([example for _, example in examples], pipeline.outputs):
            reduced[index] = pipeline.reduce(examples[index][1], outputs)
        if isinstance(pipeline, Search) and pipeline.corpus is not None:
            reduced = pipeline.search(reduced)
        done = 0
        for row, encoded in chunk:
            if isinstance(encoded, UserError):
                yield encoded
                continue
            parts = [reduced.pop(index) for index in range(done, done + len(encoded))]
            done += len(encoded)
            yield pipeline.decode(row, encoded, parts)

    def _answer(self, task: str, rows: dict[str, Any] | list[dict[str, Any]], **options: Any) -> Any:
        answers = []
        for answer in self.stream(task, rows if isinstance(rows, list) else [rows], **options):
            if isinstance(answer, UserError):
                raise answer
            answers.append(answer)
        return answers if isinstance(rows, list) else answers[0]


def _rows(**texts: str | list[str] | None) -> dict[str, Any] | list[dict[str, Any]]:
    """One row, or a row for each element of the lists; a single text is repeated in every row."""
    lists = {name: value for name, value in texts.items() if isinstance(value, list)}
    if not lists:
        return texts
    lengths = {name: len(value) for name, value in lists.items()}
    if len({*lengths.values()}) > 1:
        (first, count), (other, others) = lengths.items()
        raise ArgumentError(other, f"must have {count} elements, like {first}, not {others}.")
    return [
        {name: value[i] if isinstance(value, list) else value for name, value in texts.items()}
        for i in range(max(lengths.values()))
    ]


def _device(device: str | None) -> str:
    usable = flow.cuda.is_available()
    if device is None:
        device = "cuda" if usable else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ArgumentError("device", f"{device} is unknown: use cpu, cuda or cuda:N.")
    if kind == "cuda" and (not usable or int(number or 0) >= flow.cuda.device_count()):
        raise ArgumentError("device", f"{device} is not usable on this machine: use cpu, or omit it.")
    if kind == "cuda":
        check_capability(int(number or 0))
    return device


def _encoder(
    checkpoint: Checkpoint, vocab_file: str | Path | None, do_lower_case: bool | None, seq_length: int | None
) -> TextEncoder | None:
    """The text encoder, or None if there is no vocabulary."""
    config = checkpoint.config
    if seq_length is not None and not 3 < seq_length <= config.max_position_embeddings:
        raise ArgumentError(
            "seq_length",
            f"{seq_length} must be above 3 and at most the model's maximum length, {config.max_position_embeddings}.",
        )
    file = vocab_file or checkpoint.vocab_file
    if file is None:
        return None
    vocabulary = read_vocabulary(file, do_lower_case, settings_in=checkpoint.directory)
    if vocabulary.size > config.vocab_size:
        raise ArgumentError(
            "vocab_file",
            f"{vocabulary.path} has {vocabulary.size} tokens, the model has {config.vocab_size}: use the vocabulary "
            "that the model was trained with.",
        )
    if vocabulary.size < config.vocab_size:
        warn(
            f"the vocabulary {vocabulary.path} has {vocabulary.size} tokens, fewer than the model's "
            f"{config.vocab_size}."
        )
    vocabulary.warn_of_contradictions(do_lower_case)
    return TextEncoder(
        tokenizer_of(vocabulary),
        vocabulary.ids,
        seq_length or config.max_position_embeddings,
        config.type_vocab_size,
        separators=vocabulary.separators,
    )
