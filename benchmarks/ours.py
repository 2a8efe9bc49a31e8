"""Our side of the benchmark: one case, measured by worker.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import kernels

kernels.configure()

import oneflow as flow  # noqa: E402

from benchmarks.worker import LENGTH, PREDICTIONS, ROWS, Case, sentence_lengths, serve  # noqa: E402
from configs.model import BertConfig  # noqa: E402
from configs.training import OptimizerFlags  # noqa: E402
from modeling import BertForPreTraining, BertForQuestionAnswering, BertModel  # noqa: E402
from training.distributed import World  # noqa: E402
from training.optimizer import build_optimizer  # noqa: E402
from training.step import Mode, StepOptions, build_train_step, place  # noqa: E402

WORLD = World(rank=0, size=1, device="cpu")


def make_step(case: Case) -> Callable[[], None]:
    kernels.set_bf16(case.bf16)
    mode: Mode = "graph" if case.kind == "graph" else "eager"
    if case.task in ("pretraining", "squad"):
        return _training_step(case.task, mode)
    return _inference_step(case.task, mode)


def _training_step(task: str, mode: Mode) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    rows, length = ROWS[task], LENGTH[task]
    batch = {
        "input_ids": rng.integers(1000, 30000, (rows, length), np.int32),
        "input_mask": np.ones((rows, length), np.int32),
        "segment_ids": np.zeros((rows, length), np.int32),
        "example_weights": np.ones(rows, np.float32),
    }
    if task == "pretraining":
        batch["masked_lm_positions"] = np.sort(rng.integers(0, length, (rows, PREDICTIONS), np.int32), 1)
        batch["masked_lm_ids"] = rng.integers(1000, 30000, (rows, PREDICTIONS), np.int32)
        batch["masked_lm_weights"] = np.ones((rows, PREDICTIONS), np.float32)
        batch["next_sentence_labels"] = rng.integers(0, 2, (rows, 1), np.int32)
        model = place(mode, BertForPreTraining(BertConfig()), WORLD)
    else:
        batch["start_positions"] = rng.integers(0, length, (rows, 1), np.int32)
        batch["end_positions"] = rng.integers(0, length, (rows, 1), np.int32)
        model = place(mode, BertForQuestionAnswering(BertConfig()), WORLD)
    rates = np.full(100_000, 1e-5, np.float32)
    optimizer = build_optimizer(model, OptimizerFlags())
    update = build_train_step(mode, model, optimizer, rates, StepOptions(world=WORLD, seed=1))

    def step() -> None:
        update(batch)()  # reading the losses waits for the end

    return step


def _inference_step(task: str, mode: Mode) -> Callable[[], None]:
    model = BertModel(BertConfig()).eval()
    kernels.hold_weights(model.parameters())  # as inference/runner.py does
    if task == "inference_1":
        lengths = [LENGTH[task]]
    else:
        lengths = sorted(sentence_lengths())  # neighbours are of like length: little is padded
    batches = []
    for first in range(0, len(lengths), ROWS[task]):
        part = np.array(lengths[first : first + ROWS[task]])
        width = int(part.max())
        ids = np.random.default_rng(first).integers(1000, 30000, (len(part), width), np.int32)
        batches.append((ids, (np.arange(width) < part[:, None]).astype(np.int32)))
    graphs = {ids.shape: _Graph(model) for ids, _ in batches} if mode == "graph" else {}

    def step() -> None:
        with flow.no_grad():
            for ids, mask in batches:
                run = graphs.get(ids.shape, model)
                run(flow.from_numpy(ids), flow.from_numpy(mask))["pooled_output"].numpy()

    return step


class _Graph(flow.nn.Graph):
    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def build(self, ids: flow.Tensor, mask: flow.Tensor) -> dict[str, flow.Tensor]:
        return self.model(ids, mask)


if __name__ == "__main__":
    serve(make_step)
