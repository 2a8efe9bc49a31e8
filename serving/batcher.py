"""The queue in front of the models, and the one thread that computes.

A batch starts with the oldest example, so that every example is computed eventually. Models on packed weights compute
no padding, so the next examples follow. For other models, waiting examples of similar length are added as long as their
padding costs less than a separate batch. Most clients send the next request as soon as they have an answer, so a batch
that is not full waits until the number of new requests equals the number that the last batch answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inference import Model
from inference.pipelines import Pipeline
from inference.runner import Example, Runner
from serving.errors import CannotCompute, InputTooLarge, Overloaded
from serving.log import current_trace, logger
from serving.metrics import Metrics

Result = TypeVar("Result")
# The fixed cost of a batch, as a fraction of a full batch: more padding than this costs more than a separate batch.
_FIXED_COST = 1 / 16
_SMOOTHING = 0.2  # smoothing factor of the measured speed


@dataclass(eq=False)
class _Job:
    """The examples of one request."""

    model: Model
    pipeline: Pipeline
    examples: Sequence[Example]
    done: asyncio.Future[list[Any]]
    submitted: float
    results: list[Any] = field(default_factory=list)
    items: list[_Item] = field(default_factory=list)
    computed: int = 0
    queue_seconds: float = 0.0  # the longest wait of its examples
    inference_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.results = [None] * len(self.examples)
        self.items = [_Item(self, index) for index in range(len(self.examples))]


class _Item:
    """One example of a job.

    Attributes:
        length: the number of tokens.
        group: the properties that all examples of a batch share.
    """

    def __init__(self, job: _Job, index: int) -> None:
        self.job, self.index = job, index
        self.example = job.examples[index]
        self.length = len(self.example.input_ids)
        self.group: Hashable = (id(job.model), job.pipeline.outputs, job.model.runner.kind(self.example))


class Batcher:
    """Runs the examples of all requests in batches, in its own thread; no other thread uses OneFlow.

    Args:
        max_wait: the maximum time that a batch waits for more requests, in seconds.
        max_queue_tokens: the maximum number of waiting tokens.
        max_delay: the maximum expected time in the queue, in seconds; above it, new requests are refused.
        metrics: the metrics to update.
    """

    def __init__(self, max_wait: float, max_queue_tokens: int, max_delay: float, metrics: Metrics) -> None:
        self._max_wait, self._max_tokens, self._max_delay = max_wait, max_queue_tokens, max_delay
        self._metrics = metrics
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._waiting: OrderedDict[_Item, None] = OrderedDict()  # by arrival
        self._groups: dict[Hashable, dict[int, OrderedDict[_Item, None]]] = {}  # {group: {length: items by arrival}}
        self._tokens = 0  # waiting
        self._answered: float = math.inf  # requests that the last batch completed
        self._arrived = 0  # requests since then
        self._last_end = 0.0
        self._tokens_per_second: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    async def compute(self, model: Model, pipeline: Pipeline, examples: Sequence[Example]) -> list[Any]:
        """Returns `pipeline.reduce` of each example's outputs; cancelling the call removes the examples from the queue.

        Raises:
            InputTooLarge: the request has more tokens than the queue accepts.
            Overloaded: the queue is full.
            CannotCompute: the model failed.
        """
        job = _Job(model, pipeline, examples, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._submit(job)
        try:
            return await job.done
        finally:
            with self._changed:
                for item in job.items:
                    if item in self._waiting:
                        self._remove(item)
            trace = current_trace.get()
            trace.queue += job.queue_seconds
            trace.inference += job.inference_seconds

    async def call(self, function: Callable[[], Result]) -> Result:
        """Runs a function in the inference thread, before the next batch."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except Exception as error:
                _schedule(loop, _fail, done, error)
            else:
                _schedule(loop, _succeed, done, result)

        with self._changed:
            self._calls.append(run)
            self._changed.notify()
        return await done

    def _submit(self, job: _Job) -> None:
        tokens = sum(item.length for item in job.items)
        if tokens > self._max_tokens:
            raise InputTooLarge(
                f"the request has {tokens} tokens, above the queue's {self._max_tokens}: send fewer or shorter texts"
            )
        with self._changed:
            delay = self._tokens / self._tokens_per_second if self._tokens_per_second else 0.0
            if self._tokens + tokens > self._max_tokens or delay > self._max_delay:
                raise Overloaded("Model is overloaded", retry_after=delay)
            for item in job.items:
                self._waiting[item] = None
                self._groups.setdefault(item.group, {}).setdefault(item.length, OrderedDict())[item] = None
            self._arrived += 1
            self._count_tokens(tokens)
            self._changed.notify()

    def _remove(self, item: _Item) -> None:
        lengths = self._groups[item.group]
        del self._waiting[item], lengths[item.length][item]
        if not lengths[item.length]:
            del lengths[item.length]
        if not lengths:
            del self._groups[item.group]
        self._count_tokens(-item.length)

    def _count_tokens(self, change: int) -> None:
        self._tokens += change
        self._metrics.queued_tokens.set(self._tokens)

    def _work(self) -> None:
        while True:
            call, batch = None, []
            with self._changed:
                while not self._calls and (seconds := self._seconds_to_wait()) != 0:
                    if seconds is None and self._closed:
                        return
                    self._changed.wait(seconds)
                if self._calls:
                    call = self._calls.popleft()
                else:
                    batch = self._take()
            if call:
                call()
            else:
                self._compute(batch)

    def _seconds_to_wait(self) -> float | None:
        """Seconds until the next batch starts, None if the queue is empty."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting))
        runner = oldest.job.model.runner
        is_full = self._tokens >= runner.most_tokens or len(self._waiting) >= runner.batch_size
        if self._closed or is_full or self._arrived >= self._answered:
            return 0
        return max(0, max(oldest.job.submitted, self._last_end) + self._max_wait - time.perf_counter())

    def _take(self) -> list[_Item]:
        """Removes a batch from the queue: the oldest item, and others of its group."""
        oldest = next(iter(self._waiting))
        runner = oldest.job.model.runner
        batch = self._by_arrival(oldest, runner) if runner.packed else self._by_length(oldest, runner)
        for item in batch:
            self._remove(item)
        return batch

    def _by_arrival(self, oldest: _Item, runner: Runner) -> list[_Item]:
        """The next items: packed models compute no padding, so lengths do not matter."""
        batch: list[_Item] = []
        tokens = 0
        for item in self._waiting:
            if item.group != oldest.group:
                continue
            tokens += item.length
            if batch and tokens > runner.most_tokens:
                break
            batch.append(item)
        return batch

    def _by_length(self, oldest: _Item, runner: Runner) -> list[_Item]:
        """Items of the most similar lengths."""
        batch: list[_Item] = []
        longest = oldest.length
        lengths = self._groups[oldest.group]
        for length in sorted(lengths, key=lambda length: abs(length - oldest.length)):
            room = runner.rows([max(longest, length)] * runner.batch_size) - len(batch)
            count = min(room, len(lengths[length]))
            padding = len(batch) * (length - longest) if length > longest else count * (longest - length)
            if room <= 0 or padding > runner.most_tokens * _FIXED_COST:  # a separate batch costs less than the padding
                break
            batch += [item for item, _ in zip(lengths[length], range(count), strict=False)]
            longest = max(longest, length)
        return batch

    def _compute(self, batch: list[_Item]) -> None:
        started = time.perf_counter()
        model, names = batch[0].job.model, batch[0].job.pipeline.outputs
        jobs = {item.job: None for item in batch}
        try:
            for index, outputs in model.runner.run([item.example for item in batch], names):
                item = batch[index]
                item.job.results[item.index] = item.job.pipeline.reduce(item.example, outputs)
                item.job.computed += 1
        except Exception:
            logger.exception("a batch failed", extra={"fields": {"model": str(model.path), "rows": len(batch)}})
            for job in jobs:
                _schedule(job.done.get_loop(), _fail, job.done, CannotCompute("Inference failed"))
            return
        seconds = time.perf_counter() - started
        self._measure(batch, started, seconds)
        finished = [job for job in jobs if job.computed == len(job.items)]
        with self._changed:
            self._answered, self._arrived, self._last_end = len(finished), 0, time.perf_counter()
        for job in jobs:
            job.queue_seconds = max(job.queue_seconds, started - job.submitted)
            job.inference_seconds += seconds
        for job in finished:
            _schedule(job.done.get_loop(), _succeed, job.done, job.results)

    def _measure(self, batch: list[_Item], started: float, seconds: float) -> None:
        tokens = sum(item.length for item in batch)
        longest = max(item.length for item in batch)
        padded = tokens if batch[0].job.model.runner.packed else len(batch) * longest
        speed = tokens / max(seconds, 1e-6)
        before = self._tokens_per_second
        self._tokens_per_second = speed if before is None else before + _SMOOTHING * (speed - before)
        metrics = self._metrics
        metrics.inference_seconds.observe(seconds)
        metrics.batch_rows.observe(len(batch))
        metrics.batch_tokens.observe(tokens)
        metrics.padded_tokens.inc(padded)
        for item in batch:
            metrics.queue_seconds.observe(started - item.job.submitted)


def _schedule(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has ended, and with it all requests
        loop.call_soon_threadsafe(function, *arguments)


def _succeed(done: asyncio.Future[Any], result: Any) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
