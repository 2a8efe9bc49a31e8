"""A trial, whose runs are stand-ins that write metrics, and real processes that are stopped."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.command import Command
from sweeps.runs import LocalRun
from sweeps.trial import COMPLETE, FAILED, PRUNED, Measure, Outcome, Trial
from tests.sweeps.fakes import FakeRuns

COMMAND = Command.parse("run_glue.py --task_name rte --data_dir glue")
BEST = Measure("eval_score", maximize=True, takes_best=True)


def trial(tmp_path, runs, seeds=range(7, 8), should_prune=lambda number, value: False, measure=BEST):
    return Trial(COMMAND, {"lr": 0.5}, measure, tmp_path, seeds, runs, should_prune)


def outcome(trial):
    trial.start()
    while (found := trial.poll()) is None:
        pass
    return found


@pytest.mark.parametrize(
    ("maximize", "takes_best", "expected"), [(True, True, 0.8), (False, True, 0.3), (True, False, 0.5)]
)
def test_a_run_counts_with_its_best_or_last_evaluation(tmp_path, maximize, takes_best, expected):
    runs = FakeRuns(lambda flags: [0.3, 0.8, 0.5])
    measure = Measure("eval_score", maximize, takes_best)
    assert outcome(trial(tmp_path, runs, measure=measure)) == Outcome(COMPLETE, (expected,))


def test_every_seed_runs_in_its_own_directory(tmp_path):
    runs = FakeRuns(lambda flags: [float(flags["seed"])])
    assert outcome(trial(tmp_path, runs, range(7, 10))) == Outcome(COMPLETE, (7.0, 8.0, 9.0))
    assert [flags["output_dir"] for flags in runs.started] == [str(tmp_path / f"seed-{seed}") for seed in (7, 8, 9)]


def test_a_trial_is_pruned_at_the_evaluation_that_decides_even_if_its_run_has_ended(tmp_path):
    judged = []

    def should_prune(number, value):
        judged.append((number, value))
        return number == 1

    runs = FakeRuns(lambda flags: [0.3, 0.2, 0.9])
    assert outcome(trial(tmp_path, runs, range(7, 9), should_prune)) == Outcome(PRUNED, (0.2,))
    assert judged == [(0, 0.3), (1, 0.2)] and len(runs.started) == 1


def test_repeated_rows_of_a_continued_run_count_once(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "eval_score": step / 10}) + "\n" for step in (3, 6, 6, 9))
    )
    assert BEST.evaluations(tmp_path) == [0.3, 0.6, 0.9]


@pytest.mark.parametrize(
    ("values", "code", "error"),
    [
        ([0.5], 3, "exit code 3: the last line"),
        ([], 0, "metrics.jsonl has no eval_score"),
        ([float("nan")], 0, "metrics.jsonl has eval_score nan"),
    ],
)
def test_a_failed_run_is_explained(tmp_path, values, code, error):
    runs = FakeRuns(lambda flags: values, code)
    assert outcome(trial(tmp_path, runs)) == Outcome(FAILED, (), error)


def test_a_process_is_stopped_and_may_save_first(tmp_path):
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('saved'))); print(1, flush=True)\n"
    for save in (True, False):
        log = tmp_path / f"{save}.log"
        run = LocalRun([sys.executable, "-c", code + "time.sleep(60)"], log)
        while not log.read_text():
            time.sleep(0.01)
        assert run.poll() is None
        run.stop(save=save)
        assert ("saved" in log.read_text()) == save and run.poll() is not None


def test_a_process_ends_with_the_sweep(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from sweeps.runs import LocalRun\n"
        "run = LocalRun([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'],"
        " Path(sys.argv[1]))\n"
        "while not Path(sys.argv[1]).read_text(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", code, str(log)], check=False)
    pid = int(log.read_text())
    for _ in range(200):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the run goes on")
