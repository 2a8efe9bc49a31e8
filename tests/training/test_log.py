"""The rows of training steps: figures, learning rate, and the throughput since the row before."""

import time

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from launch.job_shape import JobShape
from tests.training.fakes import Numbers, SumModel, SumTask
from training.checkpoint import TrainingState
from training.distributed import World
from training.journal import Journal, read_rows
from training.log import TrainingLog
from training.plan import UpdatePlan

RANKS = 2
WORDS = "--max_steps 9 --train-batch-size 3 --loss_print_every_n_iters 4".split()
CONFIG = parse(PretrainingConfig, WORDS)
SPLIT = parse(PretrainingConfig, [*WORDS, "--grad-acc-steps", "2"])
PLAN, SPLIT_PLAN = (
    UpdatePlan.of(config, TrainingState(0, 0, 5), records_per_epoch=7, data_parallel_size=RANKS)
    for config in (CONFIG, SPLIT)
)


@pytest.fixture
def log(tmp_path):
    with Journal(tmp_path, first_step=0, total_steps=9) as journal:
        yield TrainingLog(journal, CONFIG.run, PLAN, SumTask(), FakeEvaluator(), peak=1e3)


class FakeEvaluator:
    model, world = SumModel(), World(JobShape(0, RANKS), "cpu")

    def means_of(self, batches, terms):
        (batch,) = batches
        return {"hidden": float(len(batch["input_ids"])), "total_loss": 99.0}


def replace_field(task, **values):
    for name, value in values.items():
        object.__setattr__(task, name, value)
    return task


def test_due_at_multiples_and_at_the_first_and_the_last_step(log):
    assert [done for done in range(1, 10) if log.due(done)] == [1, 4, 8, 9]


def test_figures_of_evaluation_are_measured_where_asked(log, tmp_path):
    log.task, log.plan = replace_field(log.task, train_figures_every=5), SPLIT_PLAN
    assert [done for done in range(1, 10) if log.due(done)] == [1, 4, 5, 8, 9]
    log.count({"input_ids": np.zeros((6, 5)), "input_mask": np.ones((6, 5))})
    log.write(4, {"total_loss": 1.0})
    log.write(5, {"total_loss": 1.0})
    without, row = read_rows(tmp_path / "metrics.jsonl")
    assert "hidden" not in without and row["hidden"] == 3.0  # rows of the first micro-batch
    assert row["total_loss"] == 1.0  # training's own figures stay


def test_a_row_counts_the_work_of_all_ranks_since_the_row_before(log, tmp_path, monkeypatch):
    log._clock = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: 2.0)
    batch = Numbers(3).read(np.arange(3))  # 1 + 2 + 3 tokens
    log.count(batch)
    log.count(batch)
    log.write(2, {"total_loss": 1.0, "item_share": 0.5})
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["step"], row["epoch"], row["share"], row["lr"]) == (1, 0, 0.5, PLAN.learning_rate(1))
    assert row["weight_norm"] == 0.0
    assert row["throughput"] == 2 * 3 * RANKS / 2
    assert row["tokens_per_second"] == 2 * 6 * RANKS / 2
    flops = 3 * 3 * log.model.config.forward_flops(5, predictions=2)
    assert row["model_flops_per_second"] == 2 * flops * RANKS / 2
    assert row["model_flops_share"] == row["model_flops_per_second"] / 1e3


def test_pauses_do_not_count(log, monkeypatch):
    times = iter([10.0, 17.0])
    log._clock = 3.0
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    with log.clock_stopped():
        pass
    assert log._clock == 10.0
