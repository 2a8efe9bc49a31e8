"""The queue: order of answers, fullness and padding of batches, limits, cancellation. The model is a stand-in."""

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs `make setup EXTRAS=serve`")

from inference.runner import Example
from serving.batcher import Batcher
from serving.errors import CannotCompute, InputTooLarge, Overloaded
from serving.log import Trace, current_trace
from serving.metrics import Metrics


class Runner:
    """Gives each example's ids back, and remembers the batches; computes while `open` is set."""

    most_tokens, batch_size, packed = 60, 5, False

    def __init__(self):
        self.batches, self.open, self.fails = [], threading.Event(), False
        self.open.set()

    def kind(self, example):
        return 0

    def rows(self, lengths):
        return max(1, min(self.batch_size, self.most_tokens // max(lengths)))

    def run(self, examples, names):
        self.batches.append([len(example.input_ids) for example in examples])
        self.open.wait(30)
        if self.fails:
            raise RuntimeError("broken")
        for index in reversed(range(len(examples))):
            yield index, {names[0]: examples[index].input_ids}


class Model:
    path = "stand-in"

    def __init__(self):
        self.runner = Runner()


class Pipeline:
    outputs = ("ids",)

    def reduce(self, example, outputs):
        return outputs["ids"].tolist()


def examples(*lengths):
    return [
        Example(np.full(length, place, np.int32), np.zeros(length, np.int32)) for place, length in enumerate(lengths)
    ]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def make():
    """Builds a batcher, which ends with the test."""
    made = []

    def build(max_wait=0.0, max_queue_tokens=1000, max_delay=60.0):
        made.append(Batcher(max_wait, max_queue_tokens, max_delay, Metrics()))
        return made[-1]

    yield build
    for batcher in made:
        batcher.close()


async def compute(batcher, model, *lengths):
    current_trace.set(Trace())
    return await batcher.compute(model, Pipeline(), examples(*lengths))


async def queued(batcher, tokens):
    """Waits until this number of tokens waits."""
    for _ in range(500):
        if batcher._tokens == tokens:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{batcher._tokens} tokens wait, not {tokens}")


async def occupy(batcher, model):
    """Starts a request that is computed until the runner is opened, so that later ones wait."""
    model.runner.open.clear()
    task = asyncio.create_task(compute(batcher, model, 7))
    while not model.runner.batches:
        await asyncio.sleep(0.01)
    return task


def test_answers_keep_their_order_whatever_the_batches(make, model):
    lengths = (30, 3, 17, 2, 40, 9, 3, 11)
    batcher = make()

    async def run():
        return await asyncio.gather(*(compute(batcher, model, *lengths[start:]) for start in range(4)))

    for start, found in enumerate(asyncio.run(run())):
        assert found == [[place] * length for place, length in enumerate(lengths[start:])]
    assert all(len(batch) * max(batch) <= 60 and len(batch) <= 5 for batch in model.runner.batches)


def test_requests_share_batches_of_near_lengths(make, model):
    batcher = make()

    async def run():
        first = await occupy(batcher, model)
        others = [asyncio.create_task(compute(batcher, model, length)) for length in (10, 50, 11, 49, 12)]
        await queued(batcher, 132)
        model.runner.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert model.runner.batches[0] == [7]
    assert sorted(model.runner.batches[1]) == [10, 11, 12]
    assert sorted(map(max, model.runner.batches[2:])) == [49, 50]


def test_packed_models_take_requests_by_arrival(make, model):
    model.runner.packed = True
    batcher = make()

    async def run():
        first = await occupy(batcher, model)
        others = [asyncio.create_task(compute(batcher, model, length)) for length in (10, 50, 11, 49, 12, 48)]
        await queued(batcher, 180)
        model.runner.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert model.runner.batches == [[7], [10, 50], [11, 49], [12, 48]]


def test_the_oldest_is_in_the_next_batch(make, model):
    batcher = make()

    async def run():
        tasks = [await occupy(batcher, model)]
        for length in (59, *[5] * 9):
            tasks.append(asyncio.create_task(compute(batcher, model, length)))
        await queued(batcher, 59 + 45)
        model.runner.open.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert 59 in model.runner.batches[1]


def test_a_batch_waits_for_others_to_fill_it(make, model):
    batcher = make(max_wait=20.0)

    async def run():
        await asyncio.gather(*(compute(batcher, model, 12) for _ in range(5)))  # 60 tokens: full before 20 seconds

    asyncio.run(asyncio.wait_for(run(), 10))
    assert model.runner.batches == [[12] * 5]


def test_cancelled_requests_are_not_computed(make, model):
    batcher = make()

    async def run():
        first = await occupy(batcher, model)
        given_up = asyncio.create_task(compute(batcher, model, 30, 31, 32))
        last = asyncio.create_task(compute(batcher, model, 9))
        await queued(batcher, 102)
        given_up.cancel()
        await queued(batcher, 9)
        model.runner.open.set()
        await asyncio.gather(first, last)

    asyncio.run(run())
    assert model.runner.batches == [[7], [9]]


def test_a_full_queue_refuses(make, model):
    batcher = make(max_queue_tokens=50)

    async def run():
        with pytest.raises(InputTooLarge, match="51 tokens"):
            await compute(batcher, model, 51)
        tasks = [await occupy(batcher, model)]
        tasks.append(asyncio.create_task(compute(batcher, model, 45)))
        await queued(batcher, 45)
        with pytest.raises(Overloaded) as refusal:
            await compute(batcher, model, 6)
        assert refusal.value.retry_after >= 1
        model.runner.open.set()
        await asyncio.gather(*tasks)
        assert await compute(batcher, model, 6) == [[0] * 6]

    asyncio.run(run())


def test_a_queue_that_would_take_too_long_refuses(make, model):
    batcher = make(max_delay=2.0)

    async def run():
        tasks = [await occupy(batcher, model)]
        tasks.append(asyncio.create_task(compute(batcher, model, 50)))
        await queued(batcher, 50)
        batcher._tokens_per_second = 10
        with pytest.raises(Overloaded) as refusal:
            await compute(batcher, model, 1)
        assert refusal.value.retry_after == 5
        model.runner.open.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_failure_reaches_its_requests_and_no_others(make, model):
    batcher, other = make(), Model()

    async def run():
        model.runner.fails = True
        with pytest.raises(CannotCompute):
            await compute(batcher, model, 40, 41, 42)
        model.runner.fails = False
        assert batcher._tokens == 0
        assert await compute(batcher, other, 4) == [[0] * 4]
        assert await compute(batcher, model, 3) == [[0] * 3]

    asyncio.run(run())
