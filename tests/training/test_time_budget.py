"""Training for a given time: the clock, the last update, the learning rates, and whole runs that are stopped."""

import itertools
import shutil

import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from configs.training import OptimizerFlags
from tasks.pretraining import pretrain
from tests.training.whole_runs import SMALL, train
from training import trainer
from training.checkpoint import load_training_state
from training.journal import Journal, read_rows
from training.schedule import learning_rates, rate_schedule
from training.time_budget import Clock, TimeBudget, stored_clock
from utils.checkpoints import newest_checkpoint
from utils.errors import UserError


class Machine:
    """A clock that goes on by what work takes."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time

    def works(self, seconds):
        self.time += seconds


def schedule(share):
    return 1 - share


def budget(machine, seconds=100.0, clock=None, forward_share=0.0):
    made = TimeBudget(
        seconds / 3600, clock or Clock(), lambda share: 1 - share, lambda value: value, forward_share, machine
    )
    made.start()
    return made


def updates(made, machine, durations, pauses=()):
    """Makes updates of these durations until the time is over; returns their learning rates."""
    rates = []
    for number, duration in enumerate(durations):
        made.begin_update()
        rates.append(made.learning_rate)
        machine.works(duration)
        made.end_update()
        if made.finished:
            return rates
        if number in pauses:
            with made.measuring("save"):
                machine.works(2.0)
    raise AssertionError("the time is never over")


@pytest.mark.parametrize("duration", [0.3, 0.7, 1.9])
def test_updates_end_within_half_an_update_and_the_rate_falls_to_its_end(duration):
    machine = Machine()
    made = budget(machine)
    rates = updates(made, machine, [8.0] + [duration] * 1000)  # the first one compiles
    assert abs(machine.time - 1100) <= duration / 2 + 1e-9
    assert rates[-1] == 0 and all(b < a for a, b in itertools.pairwise(rates))
    assert rates[len(rates) // 2] == pytest.approx(1 - 0.54, abs=0.02)  # 8 of 100 seconds are gone with the first


def test_a_slower_machine_makes_fewer_updates_and_ends_on_time():
    machine = Machine()
    made = budget(machine)
    rates = updates(made, machine, [0.1] * 300 + [0.9] * 1000)
    assert abs(machine.time - 1100) <= 1 and rates[-1] == 0


def test_time_for_the_last_checkpoint_and_evaluation_is_set_aside():
    machine = Machine()
    made = budget(machine, forward_share=10.0)  # an evaluation takes ten updates
    rates = updates(made, machine, [0.5] * 1000, pauses=(3, 50))
    assert abs(machine.time - (1100 - 5 - 2)) <= 0.5 and rates[-1] == 0
    with made.measuring("evaluation"):
        machine.works(7.0)
    assert made.clock.evaluation == 7.0


def test_an_evaluation_that_would_be_late_is_left_out():
    machine = Machine()
    made = budget(machine, clock=Clock(70.0, 0.5, evaluation=10.0))
    assert made.has_time_to_evaluate()
    machine.works(10.0)
    made.begin_update()
    assert not made.has_time_to_evaluate() and not made.finished


def test_a_restart_continues_the_clock_with_the_same_rates():
    whole, stopped = Machine(), Machine()
    expected = updates(budget(whole), whole, [1.0] * 200)
    made = budget(stopped)
    rates = []
    for _ in range(37):
        made.begin_update()
        rates.append(made.learning_rate)
        stopped.works(1.0)
        made.end_update()
    stopped.works(500.0)  # nobody trains
    rates += updates(budget(stopped, clock=made.state), stopped, [1.0] * 200)
    assert rates == pytest.approx(expected)


def test_a_finished_run_has_used_all_of_its_time():
    machine = Machine()
    made = budget(machine)
    updates(made, machine, [0.7] * 1000)
    assert made.state.seconds >= 100 and budget(machine, clock=made.state).finished
    assert not budget(machine, seconds=200, clock=made.state).finished


def test_a_time_shorter_than_an_evaluation_is_refused():
    machine = Machine()
    made = budget(machine, forward_share=300.0)
    with pytest.raises(UserError, match="one evaluation takes about 150"):
        updates(made, machine, [0.5] * 10)


@pytest.mark.parametrize("content", [[], {"seconds": 1}, {**vars(Clock()), "save": -1}, {**vars(Clock()), "save": "1"}])
def test_a_damaged_clock_is_refused(content):
    with pytest.raises(ValueError, match="clock must contain"):
        stored_clock(content)


def test_the_schedule_over_time_is_the_schedule_over_updates():
    for words in ({}, {"lr_schedule": "cosine"}, {"lr_schedule": "onecycle"}, {"lr_decay_from": "start"}):
        flags = OptimizerFlags(end_learning_rate=1e-4, **words)
        by_update = learning_rates(flags, 1000)
        by_time = rate_schedule(flags, 1_000_000)(1000.0 * (by_update * 0 + range(1000)))
        assert by_time == pytest.approx(by_update)


class Killed(Exception):
    pass


@pytest.fixture
def ticking(monkeypatch):
    """Makes each look at the clock take a second, so that a run does not depend on the machine."""
    monkeypatch.setattr(trainer, "TimeBudget", lambda *args: TimeBudget(*args, Ticks()))


class Ticks:
    def __init__(self):
        self.count = itertools.count()

    def __call__(self):
        return float(next(self.count))


def killed_after(updates, monkeypatch):
    made = []

    def advance(self):
        made.append(self)
        if len(made) == updates:
            raise Killed

    monkeypatch.setattr(Journal, "advance", advance)


def test_a_run_ends_on_time_though_it_is_killed(ticking, records_dir, tmp_path, monkeypatch):
    words = ["--train_hours", str(40 / 3600), "--model_save_every_n_iter", "4", "--val_fraction", "0.3"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(7, patch)
        train("eager", records_dir, tmp_path / "eager", *words)
    saved = load_training_state(newest_checkpoint(tmp_path / "eager"))[0]
    recorded = max(row["train_seconds"] for row in read_rows(tmp_path / "eager/metrics.jsonl"))
    assert saved.step == 4 and 0 < saved.clock.seconds < recorded
    shutil.copytree(tmp_path / "eager", tmp_path / "graph")
    rows = {}
    for mode in ("eager", "graph"):
        train(mode, records_dir, tmp_path / mode, *words, "--resume")
        rows[mode] = [row for row in read_rows(tmp_path / mode / "metrics.jsonl") if "total_loss" in row]
        assert "eval_mlm_loss" in read_rows(tmp_path / mode / "metrics.jsonl")[-1]
    last = rows["eager"][-1]
    assert rows["eager"][4]["train_seconds"] >= recorded  # the time of lost updates is spent
    assert last["lr"] == 0 and 36 <= last["train_seconds"] + 1 <= 40 and last["hours_left"] < 4 / 3600
    for name in ("train_seconds", "lr", "total_loss"):
        graph, eager = ([row[name] for row in rows[mode]] for mode in ("graph", "eager"))
        assert graph == pytest.approx(eager, rel=1e-4), name
    before = (tmp_path / "eager/metrics.jsonl").read_text()
    train("eager", records_dir, tmp_path / "eager", *words, "--resume")  # nothing is left
    assert (tmp_path / "eager/metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train_hours 1 --max_steps 3", "both set the end of the run"),
        ("--train_hours 0", "must be above 0"),
        ("--train_hours 1 --warmup_steps 3", "use --warmup_proportion"),
    ],
)
def test_contradictions_are_named(words, message, records_dir, tmp_path):
    data = ["--ofrecord_path", str(records_dir), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=message):
        pretrain(parse(PretrainingConfig, [*SMALL, *data, *words.split()]), "eager")
