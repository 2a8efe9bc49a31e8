"""This project's side of the benchmark: makes the step of one case, which worker.py measures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

import kernels
from benchmarks.worker import ENCODER, LENGTH, PREDICTIONS, ROWS, Case, named_case, sentence_lengths, serve
from launch.ending import leave
from launch.meeting import meet

meet(join_timeout=60, stop_timeout=60)  # where it is one of two
kernels.configure(named_case().threads)

import oneflow as flow  # noqa: E402

from configs.model import BertConfig, ModelFlags  # noqa: E402
from configs.training import DeviceFlags, OptimizerFlags  # noqa: E402
from data.ofrecord import open_records  # noqa: E402
from data.reading.loader import Batch, Records, training_batches  # noqa: E402
from data.records.features import pretraining_schema  # noqa: E402
from data.records.shards import ShardWriter  # noqa: E402
from inference.runner import Example, Runner  # noqa: E402
from kernels.encoder import Precision  # noqa: E402
from modeling import BertForPreTraining, BertForQuestionAnswering, BertModel  # noqa: E402
from training.distributed import join  # noqa: E402
from training.optimizer import build_optimizer  # noqa: E402
from training.step import Mode, StepOptions, build_train_step, place_model  # noqa: E402

WORLD = join(DeviceFlags(with_cuda=False))


def make_step(case: Case) -> Callable[[], None]:
    kernels.set_bf16(case.precision == "bf16")
    mode: Mode = "graph" if case.kind == "graph" else "eager"
    if case.task in ("pretraining", "squad", "encoder_step"):
        return _training_step(case.task, mode)
    if case.task == "records":
        return _records_step()
    return _graph_inference_step(case.task) if mode == "graph" else _inference_step(case)


def _config(task: str) -> BertConfig:
    if task in ENCODER:
        return ModelFlags(model_size="modernbert-base").bert_config(vocab_size=50368)
    return BertConfig()


def _batch(task: str, rows: int) -> Batch:
    """A batch of random sequences without padding."""
    rng, length = np.random.default_rng(0), LENGTH[task]
    batch = {
        "input_ids": rng.integers(1000, 30000, (rows, length), np.int32),
        "input_mask": np.ones((rows, length), np.int32),
        "segment_ids": np.zeros((rows, length), np.int32),
    }
    if task in ("squad", "encoder_step"):
        return batch | {f"{end}_positions": rng.integers(0, length, (rows, 1), np.int32) for end in ("start", "end")}
    return batch | {
        "masked_lm_positions": np.sort(rng.integers(0, length, (rows, PREDICTIONS), np.int32), 1),
        "masked_lm_ids": rng.integers(1000, 30000, (rows, PREDICTIONS), np.int32),
        "masked_lm_weights": np.ones((rows, PREDICTIONS), np.float32),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1), np.int32),
    }


def _training_step(task: str, mode: Mode) -> Callable[[], None]:
    rows = ROWS[task]
    batch = {**_batch(task, rows), "example_weights": np.ones(rows, np.float32)}
    kind = BertForPreTraining if task == "pretraining" else BertForQuestionAnswering
    model = place_model(mode, kind(_config(task)), WORLD)
    rates = np.full(100_000, 1e-5, np.float32)
    optimizer = build_optimizer(model, OptimizerFlags())
    update = build_train_step(mode, model, optimizer, rates, StepOptions(world=WORLD, seed=1))

    def step() -> None:
        update(batch)()  # reading the losses waits for the step to end

    return step


def _records_step() -> Callable[[], None]:
    """Reads, shuffles and checks the records of one pretraining step, as in a training run."""
    count, schema = 4096, pretraining_schema(LENGTH["pretraining"], PREDICTIONS)
    arrays = _batch("pretraining", count)
    with tempfile.TemporaryDirectory() as directory:
        with ShardWriter(Path(directory) / "part-00000", schema) as writer:
            for row in range(count):
                writer.write({name: array[row] for name, array in arrays.items()})
        source = open_records(directory)
        below = {"input_ids": 30522, "segment_ids": 2, "masked_lm_ids": 30522, "masked_lm_positions": 128}
        batches = training_batches(Records(source, below=below), rows=ROWS["pretraining"], seed=1)
        next(batches)  # opens the file before the directory is deleted

    def step() -> None:
        next(batches)

    return step


def _inference_step(case: Case) -> Callable[[], None]:
    """As inference/model.py runs a model."""
    rng = np.random.default_rng(0)
    examples = []
    lengths = sentence_lengths() if case.task == "inference_32" else [LENGTH[case.task]] * ROWS[case.task]
    for length in lengths:
        examples.append(Example(rng.integers(1000, 30000, length, np.int32), np.zeros(length, np.int32)))
    rows, config = ROWS[case.task], _config(case.task)
    tokens = rows * LENGTH[case.task] if case.task in ENCODER else None  # one batch
    output = "sequence_output" if case.task in ENCODER else "pooled_output"
    runner = Runner(BertModel(config), "eager", "cpu", rows, tokens, cast(Precision, case.precision))

    def step() -> None:
        for _ in runner.run(examples, [output]):
            pass

    return step


def _graph_inference_step(task: str) -> Callable[[], None]:
    model = BertModel(BertConfig()).eval()
    kernels.hold_weights(model.parameters())  # as inference/runner.py does
    lengths = sorted([LENGTH[task]] if task == "inference_1" else sentence_lengths())  # little is padded
    batches = []
    for first in range(0, len(lengths), ROWS[task]):
        part = np.array(lengths[first : first + ROWS[task]])
        width = int(part.max())
        ids = np.random.default_rng(first).integers(1000, 30000, (len(part), width), np.int32)
        batches.append((ids, (np.arange(width) < part[:, None]).astype(np.int32)))
    graphs = {ids.shape: _Graph(model) for ids, _ in batches}

    def step() -> None:
        with flow.no_grad():
            for ids, mask in batches:
                graphs[ids.shape](flow.from_numpy(ids), flow.from_numpy(mask))["pooled_output"].numpy()

    return step


class _Graph(flow.nn.Graph):
    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def build(self, ids: flow.Tensor, mask: flow.Tensor) -> dict[str, flow.Tensor]:
        return self.model(ids, mask)


if __name__ == "__main__":
    serve(make_step)
    leave(0)
