"""A checkpoint of any format, ready to answer: `load` and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import oneflow as flow

from configs.cli import warn
from conversion import Checkpoint, read_checkpoint
from conversion.names import CLASSIFIER, ENCODER, MASKED_LM, NEXT_SENTENCE, SQUAD, rows
from data.text.tokenization import build_tokenizer, check_casing, load_vocab
from inference.feature_extraction import FeatureExtraction
from inference.fill_mask import FillMask
from inference.next_sentence import NextSentence
from inference.packed import AskedPrecision, check_kept, choose_precision
from inference.pipelines import Pipeline
from inference.question_answering import QuestionAnswering
from inference.runner import Example, Mode, Runner
from inference.text import TextEncoder, softmax
from inference.text_classification import TextClassification
from kernels.encoder import Precision
from modeling import BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification, BertModel
from modeling.pretrained import PretrainedModel
from utils.errors import UserError

# Each task with the head it needs, in the order in which a model's own task is chosen.
TASKS = {
    "question-answering": SQUAD,
    "text-classification": CLASSIFIER,
    "fill-mask": MASKED_LM,
    "next-sentence": NEXT_SENTENCE,
    "feature-extraction": ENCODER,
}
_CLASSES: dict[str, type[PretrainedModel]] = {
    SQUAD: BertForQuestionAnswering,
    CLASSIFIER: BertForSequenceClassification,
    MASKED_LM: BertForPreTraining,
    NEXT_SENTENCE: BertForPreTraining,
    ENCODER: BertModel,
}
# Rows are answered in chunks: enough to sort by length, few enough for memory to stay flat.
_ROWS_PER_CHUNK, _TOKENS_PER_CHUNK, _VECTORS_PER_CHUNK = 4096, 131072, 16384
# Without a vocabulary: "[CLS] the capital of france is [MASK] . [SEP]" in BERT's published uncased one.
_FIXED_IDS, _FIXED_POSITION = (101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102), 6


def load(
    path: str | Path,
    *,
    mode: Mode | None = None,
    device: str | None = None,
    precision: AskedPrecision = "fp32",
    int8_keep: tuple[str, ...] = (),
    batch_size: int = 32,
    seq_length: int | None = None,
    vocab_file: str | Path | None = None,
    do_lower_case: bool | None = None,
    source: str = "auto",
    config: str | Path | dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> Model:
    """Loads a model of any format.

    Args:
        path: a model directory, a training run's directory, a weights file, a TensorFlow prefix, a lazy checkpoint.
        mode: "graph" compiles each batch shape once, "eager" starts at once and keeps less memory (default: graph on
            CUDA, eager on a CPU).
        device: "cpu", "cuda" or "cuda:I" (default: CUDA if it is usable).
        precision: "fp32", "bf16", "int8", or "auto" for the fastest that this CPU has instructions for; other than
            "fp32" in eager mode on a CPU with our kernels.
        int8_keep: int8: products of the encoder that are left in higher precision, "output" for every layer's, or
            "3.output" for one.
        batch_size: rows of a batch, at most.
        seq_length: longest input, in tokens (default: what the model can take).
        vocab_file: the vocabulary, in place of the one beside the weights.
        do_lower_case: whether it is an uncased one (default: what the model says, else what its words look like).
        source: the format, "auto" to find out.
        config: the model's configuration file, or its content, in place of the one beside the weights.
        sizes: settings of the configuration that are known otherwise, {"num_attention_heads": 12}.
        trust_checkpoint: whether formats may be read that need unpickling.

    Raises:
        UserError: the checkpoint, the vocabulary or the device cannot be used, or they contradict each other.
    """
    checkpoint = read_checkpoint(path, source, config=config, sizes=sizes, trust=trust_checkpoint)
    device = _device(device)
    mode = mode or ("eager" if device == "cpu" else "graph")
    check_kept(int8_keep, checkpoint.config.num_hidden_layers)
    return Model(
        checkpoint,
        mode=mode,
        device=device,
        precision=choose_precision(precision, device, mode),
        int8_keep=int8_keep,
        batch_size=batch_size,
        encoder=_encoder(checkpoint, vocab_file, do_lower_case, seq_length),
    )


def build(checkpoint: Checkpoint, head: str | None = None) -> PretrainedModel:
    """The module for a checkpoint, with the head named or its own; parts it does not hold are zero."""
    held = groups(checkpoint)
    head = head or next(head for head in TASKS.values() if head in held)
    model = _CLASSES[head](checkpoint.config)
    prefix = "" if hasattr(model, "bert") else "bert."
    arrays = {name.removeprefix(prefix): array for name, array in checkpoint.state.items()}
    for name, parameter in model.named_parameters():
        arrays.setdefault(name, np.zeros(tuple(parameter.shape), np.float32))
    model.load_arrays(arrays, source=str(checkpoint.path))
    return model


def groups(checkpoint: Checkpoint) -> set[str]:
    """The parts of BERT whose parameters a checkpoint holds."""
    config = checkpoint.config
    wanted = [row for row in rows(config.num_hidden_layers) if config.has_parameter(row.name)]
    return {row.group for row in wanted} - {row.group for row in wanted if row.name not in checkpoint.state}


class Model:
    """Answers texts; one method for each task, and `stream` for many rows.

    Attributes:
        config: the model's shape.
        tasks: what its heads can do, the first being its own task.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        mode: Mode,
        device: str,
        batch_size: int,
        encoder: TextEncoder | None,
        precision: Precision = "fp32",
        int8_keep: tuple[str, ...] = (),
    ) -> None:
        self.config, self.path = checkpoint.config, checkpoint.path
        held = groups(checkpoint)
        self.tasks = [task for task, head in TASKS.items() if head in held]
        self._encoder = encoder
        module = build(checkpoint)
        self._runner = Runner(module, mode, device, batch_size, precision, int8_keep)
        self._pipelines: dict[tuple, Pipeline] = {}

    def fill_mask(self, text: str | list[str], *, top_k: int = 5) -> Any:
        """The likeliest tokens for [MASK]: a list of {score, token, token_str, sequence}, one such for each mask."""
        return self._answer("fill-mask", _each(text, "text"), top_k=top_k)

    def next_sentence(self, text: str, text_pair: str) -> Any:
        """Whether `text_pair` follows `text`: {label, score}."""
        return self._answer("next-sentence", {"text": text, "text_pair": text_pair})

    def question_answering(self, question: str, context: str, **options: Any) -> Any:
        """The best answers in `context`: a list of {score, start, end, answer}; options as `QuestionAnswering`'s."""
        return self._answer("question-answering", {"question": question, "context": context}, **options)

    def text_classification(self, text: str | list[str], text_pair: str | None = None) -> Any:
        """All labels, the likeliest first: a list of {label, score}."""
        return self._answer("text-classification", _each(text, "text", text_pair=text_pair))

    def feature_extraction(self, text: str | list[str], *, pooling: str = "tokens") -> Any:
        """A vector for each token, or with `pooling` "first" or "mean" one for the text."""
        return self._answer("feature-extraction", _each(text, "text"), pooling=pooling)

    def stream(self, task: str, rows: Iterable[Mapping[str, Any] | UserError], **options: Any) -> Iterator[Any]:
        """Answers rows in their order; a row that cannot be answered (or is an error already) gives its UserError.

        Args:
            task: one of `TASKS`.
            rows: {field: text}; any number of them, taken as they are needed.
            options: the pipeline's.
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
        """The pipeline of a task; the same one for the same options.

        Raises:
            UserError: the model has no head for the task, or no vocabulary.
        """
        if task not in self.tasks:
            raise UserError(
                f"{self.path} has no {TASKS.get(task, 'head')}, which --task {task} needs: "
                f"it can do {', '.join(self.tasks)}."
            )
        if self._encoder is None:
            raise UserError(f"{self.path} holds no vocab.txt: name the model's vocabulary with --vocab_file.")
        key = (task, *sorted(options.items()))
        if key not in self._pipelines:
            if task == "text-classification":
                options |= {"labels": self.config.shown_labels, "problem_type": self.config.problem_type}
            kinds: dict[str, Any] = {
                "question-answering": QuestionAnswering,
                "text-classification": TextClassification,
                "fill-mask": FillMask,
                "next-sentence": NextSentence,
                "feature-extraction": FeatureExtraction,
            }
            self._pipelines[key] = kinds[task](self._encoder, **options)
        return self._pipelines[key]

    @property
    def has_vocabulary(self) -> bool:
        return self._encoder is not None

    @property
    def num_graphs(self) -> int:
        """How many batch shapes have been compiled."""
        return len(self._runner.graphs)

    def fixed_example(self, top_k: int = 5) -> tuple[list[int], list[tuple[int, float]]]:
        """What needs no vocabulary: a fixed sequence of ids, and (id, probability) of the best at its masked place."""
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


def _each(text: str | list[str], name: str, **others: Any) -> Any:
    return [{name: one, **others} for one in text] if isinstance(text, list) else {name: text, **others}


def _device(device: str | None) -> str:
    usable = flow.cuda.is_available()
    if device is None:
        return "cuda" if usable else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"--device {device} is none: use cpu, cuda or cuda:N.")
    if kind == "cuda" and (not usable or int(number or 0) >= flow.cuda.device_count()):
        raise UserError(f"--device {device} is not usable here: leave the flag out to use what there is.")
    return device


def _encoder(
    checkpoint: Checkpoint, vocab_file: str | Path | None, do_lower_case: bool | None, seq_length: int | None
) -> TextEncoder | None:
    """The text encoder, None where there is no vocabulary."""
    config = checkpoint.config
    if seq_length is not None and not 3 < seq_length <= config.max_position_embeddings:
        raise UserError(
            f"--seq_length {seq_length} must be above 3 and at most the model's longest input, "
            f"{config.max_position_embeddings}."
        )
    file = vocab_file or checkpoint.file("vocab.txt")
    if file is None:
        return None
    vocab = load_vocab(file)
    if max(vocab.values()) >= config.vocab_size:
        raise UserError(
            f"--vocab_file {file} has {max(vocab.values()) + 1} tokens and the model {config.vocab_size}: "
            "name the vocabulary the model was trained with."
        )
    if len(vocab) < config.vocab_size:
        warn(f"the vocabulary {file} has {len(vocab)} tokens, fewer than the model's {config.vocab_size}.")
    said = checkpoint.json("tokenizer_config.json").get("do_lower_case")
    if do_lower_case is not None:
        check_casing(vocab, do_lower_case, str(file))
    else:
        do_lower_case = said if isinstance(said, bool) else _looks_uncased(vocab)
    return TextEncoder(
        build_tokenizer(vocab, do_lower_case),
        vocab,
        seq_length or config.max_position_embeddings,
        config.type_vocab_size,
    )


def _looks_uncased(vocab: dict[str, int]) -> bool:
    try:
        check_casing(vocab, True, "")
    except UserError:
        return False
    return True
