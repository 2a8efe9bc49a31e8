"""The rows of training steps: figures, learning rate, and the throughput since the row before."""

import time

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from launch.job_shape import JobShape
from tests.training.fakes import Numbers, SumModel, SumTask
from training.checkpoint import TrainingState
from training.journal import Journal, read_rows
from training.log import TrainingLog
from training.plan import UpdatePlan

RANKS = 2
CONFIG = parse(PretrainingConfig, "--max_steps 9 --train-batch-size 3 --loss_print_every_n_iters 4".split())
PLAN = UpdatePlan.of(CONFIG, TrainingState(0, 0, 5), records_per_epoch=7, data_parallel_size=RANKS)


@pytest.fixture
def log(tmp_path):
    with Journal(tmp_path, first_step=0, total_steps=9) as journal:
        yield TrainingLog(journal, CONFIG.run, PLAN, SumTask(), SumModel(), JobShape(0, RANKS))


def test_due_at_multiples_and_if_asked_at_the_first(log):
    assert [done for done in range(1, 10) if log.due(done)] == [4, 8]
    log.flags = parse(PretrainingConfig, ["--logging_first_step"]).run
    assert log.due(1) and not log.due(2)


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


def test_pauses_do_not_count(log, monkeypatch):
    times = iter([10.0, 17.0])
    log._clock = 3.0
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    with log.clock_stopped():
        pass
    assert log._clock == 10.0
