"""The loop with fake parts: the order of updates, rows, evaluations and checkpoints, and how it stops."""

import itertools
import math
import signal
from types import SimpleNamespace

import pytest

from configs.training import RunFlags
from tests.training.fakes import FakeStep
from training.loop import Updates, train
from training.stopping import Stopped
from utils.errors import UserError


class Recorder:
    """The log, the evaluations, the checkpoints and the signals of a run, which note what happens."""

    def __init__(self, *, evaluate_at=(), save_at=(), stop_after=math.inf, evaluated=()):
        self.events, self.counted, self.stop_after = [], 0, stop_after
        self.log = SimpleNamespace(
            count=self.count, due=lambda done: done % 2 == 0, write=self.write, clock_stopped=lambda: self
        )
        self.evaluations = SimpleNamespace(
            due=lambda done: done in evaluate_at,
            missing=lambda done: done not in evaluated,
            exhausted=lambda: False,
            make=lambda done: self.events.append(f"evaluate {done}"),
        )
        self.checkpoints = SimpleNamespace(
            due=lambda done: done in save_at,
            save=self.save,
            check_finite=lambda done: self.events.append(f"check {done}"),
            probe=lambda done: self.events.append(f"probe {done}"),
            saved_step=None,
        )
        self.received = []

    def count(self, batch):
        self.counted += 1
        self.events.append(f"update {batch}")

    def write(self, done, values):
        self.events.append(f"row {done}")

    def save(self, done):
        self.checkpoints.saved_step = done
        self.events.append(f"save {done}")

    def requested(self):
        return self.counted >= self.stop_after

    def stopped(self, step):
        return Stopped(step, signal.SIGTERM)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def run(recorder, total, first=0, step=None, **flags):
    plan = SimpleNamespace(start=SimpleNamespace(step=first), budget=None, ends=lambda done: done >= total)
    recorder.checkpoints.saved_step = first or None
    updates = Updates(step or FakeStep(), itertools.count(first), plan)
    parts = (recorder.log, recorder.evaluations, recorder.checkpoints, recorder)
    return train(updates, RunFlags(**flags), *parts)


def test_each_update_logs_evaluates_and_saves_in_this_order():
    recorder = Recorder(evaluate_at=(2,), save_at=(1, 2))
    assert run(recorder, 3) == 3
    assert recorder.events == [
        *("update 0", "check 1", "save 1", "probe 1"),
        *("update 1", "check 2", "row 2", "evaluate 2", "save 2", "probe 2"),
        *("update 2", "check 3", "save 3"),
    ]


def test_the_last_update_is_saved_once():
    recorder = Recorder(save_at=(2,))
    run(recorder, 2)
    assert recorder.events.count("save 2") == 1


@pytest.mark.parametrize(
    ("first", "flags", "evaluated", "expected"),
    [
        (0, {}, (), []),
        (0, {"eval_at_start": True}, (), ["evaluate 0"]),
        (4, {"eval_at_start": True}, (4,), []),
        (4, {}, (), ["evaluate 4"]),
        (5, {}, (), []),
    ],
)
def test_the_start_is_evaluated_if_asked_and_a_resumed_run_makes_up_for_what_is_missing(
    first, flags, evaluated, expected
):
    recorder = Recorder(evaluate_at=(4,), evaluated=evaluated)
    run(recorder, first, first, **flags)
    assert [event for event in recorder.events if event.startswith("evaluate")] == expected


def test_a_signal_saves_and_stops_before_the_next_update():
    recorder = Recorder(stop_after=2)
    with pytest.raises(Stopped, match="after 2 steps"):
        run(recorder, 9)
    assert recorder.events[-3:] == ["row 2", "check 2", "save 2"]


def test_a_signal_right_after_a_resume_saves_nothing_twice():
    recorder = Recorder(stop_after=0)
    with pytest.raises(Stopped, match="after 4 steps"):
        run(recorder, 9, first=4)
    assert recorder.events == []


def test_a_loss_that_is_not_finite_is_neither_logged_nor_saved():
    recorder = Recorder(save_at=(1, 2))

    def check(done):
        if done == 2:
            raise UserError("not finite")

    recorder.checkpoints.check_finite = check
    with pytest.raises(UserError, match="not finite"):
        run(recorder, 9)
    assert recorder.events[-1] == "update 1"
