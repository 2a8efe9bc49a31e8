"""When a run evaluates, and what an interrupted evaluation leaves."""

import signal

import pytest

from tests.training.fakes import ALONE, SumModel, SumTask
from training.evaluations import Evaluations
from training.evaluator import Evaluator
from training.journal import Journal, read_rows
from training.stopping import Interrupted, Stopped, StopSignals


def interrupted():
    raise Interrupted


@pytest.fixture
def evaluations(tmp_path):
    """A function that makes a run's evaluations with an open journal."""
    with Journal(tmp_path, first_step=0, total_steps=9) as journal:
        evaluator = Evaluator("eager", SumModel(), ALONE, 3, 20, StopSignals(ALONE.any))
        yield lambda task, every=0: Evaluations(task, evaluator, every, journal)


def test_due_at_multiples(evaluations):
    assert [step for step in range(1, 10) if evaluations(SumTask(), 4).due(step)] == [4, 8]
    assert not any(evaluations(SumTask()).due(step) for step in range(9))


def test_rows_are_known_by_the_figure_that_judges(evaluations, tmp_path):
    made = evaluations(SumTask(lambda: {"eval_sum": 2.0}))
    assert made.missing(4)
    made.make(4)
    assert not made.missing(4) and made.missing(5)
    assert read_rows(tmp_path / "metrics.jsonl")[0]["eval_sum"] == 2.0


def test_a_task_that_does_not_evaluate_is_not_asked(evaluations, tmp_path):
    evaluations(SumTask(interrupted, evaluates=False)).make(4)
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_an_interrupted_evaluation_is_made_later(evaluations):
    made = evaluations(SumTask(interrupted))
    made.make(4)
    assert made.missing(4)


def test_an_interrupted_last_evaluation_stops_the_run(evaluations):
    made = evaluations(SumTask(interrupted))
    made.evaluator.stop.received.append(signal.SIGINT)
    with pytest.raises(Stopped, match="stopped by SIGINT after 9 steps"):
        made.make_last(9)
