"""The updates of a run: their number, their records, and what a checkpoint stores."""

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from training.checkpoint import TrainingState
from training.plan import UpdatePlan, total_steps
from training.schedule import learning_rates

RECORDS, RANKS = 47, 2


def config(words):
    return parse(PretrainingConfig, ["--train-batch-size", "3", "--grad-acc-steps", "2", *words.split()])


def plan(words, start=None):
    return UpdatePlan.of(config(words), start or TrainingState(0, 0, seed=5), RECORDS, RANKS)


def test_epochs_end_with_the_last_record():
    made = plan("--epochs 2")
    assert made.total_steps == 8  # 94 records, 12 an update
    assert made.state_after(7) == TrainingState(7, 84, seed=5, group=12)
    assert made.state_after(8) == TrainingState(8, 94, seed=5, group=12)
    assert [made.epoch(step) for step in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_max_steps_wins_over_epochs():
    made = plan("--epochs 2 --max_steps 9")
    assert made.total_steps == 9 and made.last_record is None
    assert made.state_after(9).records_taken == 108
    np.testing.assert_array_equal(made.rates, learning_rates(config("").optimizer, 9))
    assert made.learning_rate(4) == made.rates[4]


def test_a_resumed_run_continues_after_its_records_and_keeps_its_groups():
    start = TrainingState(step=3, records_taken=20, seed=5, group=7)
    made = plan("--epochs 2", start)
    assert made.total_steps == 3 + 7  # 74 records are left
    assert made.records_before(3) == 20 and made.records_before(5) == 44
    assert made.state_after(5) == TrainingState(5, 44, seed=5, group=7)


@pytest.mark.parametrize(("words", "steps"), [("--epochs 1", 4), ("--epochs 0.5", 2), ("--max_steps 3", 3)])
def test_total_steps(words, steps):
    assert total_steps(config(words), TrainingState(0, 0, seed=5), RECORDS, RANKS) == steps
