"""Answers requests by task: converts texts to examples, runs them through the queue, and decodes the outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, cast

import numpy as np

from configs.serve import ServeConfig
from inference import Model, load
from inference.pipelines import Pipeline
from inference.runner import Example, Mode
from inference.text import TextEncoder, TextTooLong, field
from serving.batcher import Batcher
from serving.errors import CannotCompute, EmptyInput, InputTooLarge, InvalidInput, InvalidText
from serving.log import current_trace
from serving.metrics import Metrics
from serving.models import Models, Pooling, ServedModel, parse_model_paths
from utils.errors import UserError

Result = TypeVar("Result")
Text = str | list[int]  # a text, or its token ids
Keep = Literal["start", "end"] | None
_ENCODING_THREADS = 2
_SHORT_CHARACTERS = 2000  # shorter requests are tokenized faster than a thread starts
_MOST_VALUES = 1 << 23  # numbers in one answer: 32 MB of float32


class Service:
    """Models, queue, limits and metrics of one process, with one method per kind of answer."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.batcher = Batcher(config.max_wait_ms / 1000, config.max_queue_tokens, config.request_timeout, self.metrics)
        read = partial(
            load,
            mode=cast(Mode | None, config.mode),
            device=config.device,
            batch_size=config.batch_size,
            max_batch_tokens=config.max_batch_tokens,
            seq_length=config.seq_length,
            do_lower_case=config.do_lower_case,
            trust_checkpoint=config.trust_checkpoint,
        )
        self.models = Models(
            parse_model_paths(config.model_path),
            read,
            self.batcher,
            budget=config.memory_budget_mb and config.memory_budget_mb << 20,
            pooling=cast(Pooling | None, config.pooling),
            metrics=self.metrics,
        )
        self._encoding = ThreadPoolExecutor(_ENCODING_THREADS, thread_name_prefix="encode")

    def close(self) -> None:
        """Finishes the queue and ends the threads."""
        self.batcher.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)

    async def embed(
        self,
        served: ServedModel,
        texts: Sequence[Text],
        *,
        keep: Keep = None,
        pooling: str | None = None,
        prompt_name: str | None = None,
    ) -> list[np.ndarray]:
        """A vector [H] per text, or with pooling "tokens" a matrix [S, H]; not normalized.

        Args:
            texts: texts, or token ids with or without [CLS] and [SEP].
            keep: which end of a text to keep if it is too long; None refuses such texts.
            pooling: "first", "mean" or "tokens" (default: the model's).
            prompt_name: name of a prompt to prepend to the texts.
        """
        self._check_count(texts)
        self._check_task(served, "feature-extraction")
        prompt = self._prompt(served, prompt_name)
        _note(served, "feature-extraction", texts)
        async with self.models.use(served) as model:
            encoder = replace(model.encoder, keep=keep)
            examples = await self._run(lambda: [encoder.example(_ids(encoder, text, prompt)) for text in texts])
            values = sum(len(example.input_ids) for example in examples) * model.config.hidden_size
            if pooling == "tokens" and values > _MOST_VALUES:
                raise InputTooLarge(f"the answer has {values} numbers, above {_MOST_VALUES}: send fewer texts")
            pipeline = model.pipeline("feature-extraction", pooling=pooling or served.description.pooling)
            return await self._compute(served, model, pipeline, examples)

    async def rerank(
        self, served: ServedModel, query: str, texts: Sequence[str], *, keep: Keep, raw_scores: bool
    ) -> list[float]:
        """Scores the relevance of each text to the query with a classifier of text pairs.

        Raises:
            CannotCompute: the model is not a classifier, or has more than two labels.
        """
        if not texts:
            raise EmptyInput("`texts` cannot be empty")
        labels = served.description.config.shown_labels
        positive = relevant_label(served)
        function = "none" if raw_scores else "sigmoid" if len(labels) == 1 else "softmax"
        rows = [{"text": query, "text_pair": text} for text in texts]
        answers = await self.answer(served, "text-classification", rows, {"function": function}, keep=keep)
        return [next(one["score"] for one in answer if one["label"] == labels[positive]) for answer in answers]

    async def answer(
        self,
        served: ServedModel,
        task: str,
        rows: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        *,
        keep: Keep = None,
    ) -> list[Any]:
        """Returns the answers of a task's pipeline, the same as `Model.stream`.

        Args:
            rows: {field: text}.
            options: the pipeline's.
            keep: which end of a text to keep if it is too long; None refuses such texts.
        """
        self._check_count(rows)
        self._check_task(served, task)
        _note(served, task, [value for row in rows for value in row.values() if isinstance(value, str)])
        async with self.models.use(served) as model:
            pipeline = model.pipeline(task, **options)
            pipeline.encoder = replace(pipeline.encoder, keep=keep) if keep else pipeline.encoder
            encoded = await self._run(lambda: [pipeline.encode(row) for row in rows])
            reduced = iter(await self._compute(served, model, pipeline, [one for part in encoded for one in part]))
            return await self._run(
                lambda: [
                    pipeline.decode(row, part, [next(reduced) for _ in part])
                    for row, part in zip(rows, encoded, strict=True)
                ]
            )

    async def tokenize(
        self, served: ServedModel, texts: Sequence[str], *, add_special_tokens: bool, prompt_name: str | None
    ) -> list[list[dict[str, Any]]]:
        """The tokens of each text: id, text, whether it is special, start and end."""
        self._check_count(texts)
        prompt = self._prompt(served, prompt_name)
        _note(served, "tokenize", texts)
        async with self.models.use(served) as model:
            encoder = model.encoder
            return await self._run(
                lambda: [_tokens(encoder, prompt + field({"text": text}, "text"), add_special_tokens) for text in texts]
            )

    async def decode(
        self, served: ServedModel, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool
    ) -> list[str]:
        """The text of each list of token ids."""
        self._check_count(ids)
        _note(served, "decode", ids)
        async with self.models.use(served) as model:
            encoder = model.encoder
            return await self._run(lambda: [_text(encoder, one, skip_special_tokens) for one in ids])

    async def _compute(
        self, served: ServedModel, model: Model, pipeline: Pipeline, examples: Sequence[Example]
    ) -> list[Any]:
        tokens = sum(len(example.input_ids) for example in examples)
        current_trace.get().tokens = tokens
        reduced = await self.batcher.compute(model, pipeline, examples)
        self.metrics.tokens.labels(served.name).inc(tokens)
        return reduced

    async def _run(self, function: Callable[[], Result]) -> Result:
        """Runs tokenization or decoding; long texts get a thread, so that they do not block other requests."""
        started = time.perf_counter()
        try:
            if current_trace.get().characters <= _SHORT_CHARACTERS:
                return function()
            return await asyncio.get_running_loop().run_in_executor(self._encoding, function)
        except TextTooLong as error:
            raise InputTooLarge(str(error)) from None
        except UserError as error:
            raise InvalidText(str(error)) from None
        finally:
            current_trace.get().tokenization += time.perf_counter() - started

    def _check_count(self, texts: Sequence[Any]) -> None:
        if not texts:
            raise EmptyInput("`inputs` cannot be empty")
        if len(texts) > self.config.max_client_batch_size:
            raise InputTooLarge(
                f"batch size {len(texts)} > maximum allowed batch size {self.config.max_client_batch_size}"
            )

    @staticmethod
    def _check_task(served: ServedModel, task: str) -> None:
        tasks = served.description.tasks
        if task not in tasks:
            raise CannotCompute(f"the model {served.name} does not support {task}: it supports {', '.join(tasks)}")

    @staticmethod
    def _prompt(served: ServedModel, name: str | None) -> str:
        prompts = served.description.prompts
        if name is not None and name not in prompts:
            known = f"the prompts are {', '.join(prompts)}" if prompts else "it has none"
            raise InvalidInput(f"the model {served.name} has no prompt {name[:100]!r}: {known}")
        return "" if name is None else prompts[name]


def relevant_label(served: ServedModel) -> int:
    """The index of the label that means relevance: the only label, or the one of two that is not negated."""
    labels = served.description.config.shown_labels
    if "text-classification" not in served.description.tasks or len(labels) > 2:
        raise CannotCompute("model is not a re-ranker model")
    return 1 if len(labels) == 2 and not labels[1].lower().startswith("not") else 0


def normalized(vectors: Sequence[np.ndarray], dimensions: int | None = None) -> list[np.ndarray]:
    """Vectors of length 1, of the first `dimensions` numbers."""
    return [part / max(float(np.linalg.norm(part)), 1e-12) for part in (vector[:dimensions] for vector in vectors)]


def _note(served: ServedModel, task: str, texts: Sequence[str | Sequence[int]]) -> None:
    trace = current_trace.get()
    trace.model, trace.task, trace.texts = served.name, task, len(texts)
    trace.characters = sum(map(len, texts))


def _ids(encoder: TextEncoder, text: Text, prompt: str) -> list[int]:
    """The token ids of a text, or those given, without [CLS] and [SEP] around them."""
    if isinstance(text, str):
        return encoder.encode(prompt + field({"text": text}, "text")).ids
    _check_ids(encoder, text)
    ids = text[1:] if text[:1] == [encoder.vocab["[CLS]"]] else text
    ids = ids[:-1] if ids[-1:] == [encoder.vocab["[SEP]"]] else ids
    if not ids:
        raise UserError("the text is empty.")
    return ids


def _check_ids(encoder: TextEncoder, ids: Sequence[int]) -> None:
    size = len(encoder.tokens)
    for index in ids:
        if not 0 <= index < size:
            raise UserError(f"there is no token {index}: the vocabulary has {size}.")


def _text(encoder: TextEncoder, ids: Sequence[int], skip_special_tokens: bool) -> str:
    _check_ids(encoder, ids)
    special = {encoder.vocab[token] for token in ("[CLS]", "[SEP]", "[PAD]")} if skip_special_tokens else set()
    return encoder.tokenizer.decode([index for index in ids if index not in special], skip_special_tokens=False)


def _tokens(encoder: TextEncoder, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    encoding = encoder.encode(text)
    tokens: list[dict[str, Any]] = [
        {"id": index, "text": text[start:end], "special": False, "start": start, "stop": end}
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    if add_special_tokens:
        first, last = (
            {"id": encoder.vocab[token], "text": token, "special": True, "start": None, "stop": None}
            for token in ("[CLS]", "[SEP]")
        )
        tokens = [first, *tokens, last]
    return tokens
