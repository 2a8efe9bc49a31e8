"""Whole sweeps whose runs are stand-ins, and a sweep of real runs: results, interruptions, failures, files."""

import csv
import json
import math

import pytest

from configs.cli import parse
from configs.sweep import SweepConfig
from tests.sweeps.fakes import FakeRuns
from utils.errors import UserError

optuna = pytest.importorskip("optuna", reason="needs `make setup EXTRAS=sweep`")
from sweeps import search as search_module  # noqa: E402
from sweeps.search import search  # noqa: E402

SPACE = {
    "--learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "--batch_size": {"low": 8, "high": 32, "step": 8},
    "--lr_schedule": ["linear", "cosine", "constant"],
}


def evaluate(flags):
    """Three evaluations, the best near a learning rate of 1e-3, which depend a little on the seed."""
    best = 1 - abs(math.log10(float(flags["lr"])) + 3) / 2 + int(flags["seed"]) / 1000
    return [best / 2, best - 0.1, best]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(search_module, "POLL_SECONDS", 0)


def sweep(tmp_path, monkeypatch, *flags, runs=None, space=SPACE):
    runs = runs or FakeRuns(evaluate)
    monkeypatch.setattr(search_module, "LocalRun", runs)
    (tmp_path / "space.json").write_text(json.dumps(space))
    command = "run_glue.py --task_name rte --data_dir glue --seed 7"
    words = ["--command", command, "--search", str(tmp_path / "space.json"), "--trials", "9", *flags]
    search(parse(SweepConfig, words))
    return runs


def table(output):
    return list(csv.DictReader((output / "trials.csv").open()))


def test_an_interrupted_sweep_gives_the_same_table(tmp_path, monkeypatch):
    flags = ("--trials", "13", "--seeds", "2", "--output_dir")  # from trial 10 on, settings depend on earlier results
    sweep(tmp_path, monkeypatch, *flags, str(tmp_path / "whole"))
    for most in (1, 6, 13, None):  # the machine fails three times
        runs = FakeRuns(evaluate, most=most)
        try:
            sweep(tmp_path, monkeypatch, *flags, str(tmp_path / "parts"), "--resume", runs=runs)
        except InterruptedError:
            assert most
    whole, parts = ((tmp_path / name / "trials.csv").read_text() for name in ("whole", "parts"))
    assert whole == parts and whole.count("\n") == 14
    assert (tmp_path / "whole/best.json").read_text() == (tmp_path / "parts/best.json").read_text()


def test_the_table_has_settings_medians_and_spread(tmp_path, monkeypatch, capsys):
    sweep(tmp_path, monkeypatch, "--seeds", "3", "--output_dir", str(tmp_path / "out"), "--prune", "False")
    rows = table(tmp_path / "out")
    assert [row["trial"] for row in rows] == [f"trial-{number:04}" for number in range(9)]
    for row in rows:
        values = [float(row[f"seed_{seed}"]) for seed in (7, 8, 9)]
        assert float(row["median"]) == values[1] and (float(row["min"]), float(row["max"])) == (values[0], values[2])
        assert values[0] == pytest.approx(evaluate({"lr": row["lr"], "seed": 7})[-1])
        assert int(row["train_batch_size"]) in (8, 16, 24, 32) and row["lr_schedule"] in SPACE["--lr_schedule"]
    best = max(rows, key=lambda row: float(row["median"]))
    content = json.loads((tmp_path / "out/best.json").read_text())
    assert content["directory"] == best["trial"] and content["flags"]["lr"] == float(best["lr"])
    assert f"best of 9 complete trials: {best['trial']}" in capsys.readouterr().out
    for name in ("parallel_coordinates.png", "importance.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("keep_all", [True, False])
def test_only_the_best_checkpoints_are_kept(tmp_path, monkeypatch, keep_all):
    sweep(tmp_path, monkeypatch, "--output_dir", str(tmp_path / "out"), "--keep_all", str(keep_all))
    best = json.loads((tmp_path / "out/best.json").read_text())["directory"]
    for trial in (tmp_path / "out").glob("trial-*"):
        kept = keep_all or trial.name == best
        assert (trial / "seed-7/best").exists() == (trial / "seed-7/checkpoint-9").exists() == kept
        assert (trial / "seed-7/metrics.jsonl").exists()


def test_bad_trials_are_pruned(tmp_path, monkeypatch):
    sweep(tmp_path, monkeypatch, "--output_dir", str(tmp_path / "out"))
    rows = table(tmp_path / "out")
    assert {row["state"] for row in rows[:5]} == {"complete"}
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned and max(float(row["median"]) for row in pruned) < max(float(row["median"]) for row in rows[:5])


def test_losses_are_minimized(tmp_path, monkeypatch):
    class Losses(FakeRuns):
        def __call__(self, argv, log):
            run = super().__call__(argv, log)
            metrics = next(log.parent.glob("seed-7/metrics.jsonl"))
            metrics.write_text(metrics.read_text().replace("eval_score", "eval_rmse"))
            return run

    output = tmp_path / "out"
    sweep(tmp_path, monkeypatch, "--output_dir", str(output), "--metric", "eval_rmse", runs=Losses(evaluate))
    complete = [row for row in table(output) if row["state"] == "complete"]
    best = json.loads((output / "best.json").read_text())
    assert best["median"] == min(float(row["median"]) for row in complete)


def test_a_crashed_trial_is_recorded_and_the_sweep_goes_on(tmp_path, monkeypatch):
    class Crashing(FakeRuns):
        def __call__(self, argv, log):
            self.code = 1 if "--lr_schedule=cosine" in argv else 0
            return super().__call__(argv, log)

    sweep(tmp_path, monkeypatch, "--output_dir", str(tmp_path / "out"), runs=Crashing(evaluate))
    rows = table(tmp_path / "out")
    assert len(rows) == 9 and {row["state"] for row in rows} >= {"complete", "failed"}
    for row in rows:
        assert (row["state"] == "failed") == (row["lr_schedule"] == "cosine")
        assert row["error"] == ("exit code 1: the last line" if row["state"] == "failed" else "")


def test_a_sweep_without_a_complete_trial_fails(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no trial completed\. The first one ended with: exit code 1: the last line"):
        sweep(tmp_path, monkeypatch, "--output_dir", str(tmp_path / "out"), runs=FakeRuns(evaluate, code=1))


def test_several_jobs_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module.os, "cpu_count", lambda: 7)
    runs = sweep(tmp_path, monkeypatch, "--output_dir", str(tmp_path / "out"), "--jobs", "3")
    assert {flags["num_threads"] for flags in runs.started} == {"2"} and len(table(tmp_path / "out")) == 9


def test_another_sweep_is_not_mixed_in(tmp_path, monkeypatch):
    output = ("--output_dir", str(tmp_path / "out"))
    sweep(tmp_path, monkeypatch, *output)
    with pytest.raises(UserError, match="is not empty: continue the sweep in it with --resume"):
        sweep(tmp_path, monkeypatch, *output)
    with pytest.raises(UserError, match="--search differs from the sweep"):
        sweep(tmp_path, monkeypatch, *output, "--resume", space={"--lr": [1e-3, 1e-4]})
    with pytest.raises(UserError, match="--seeds differs from the sweep"):
        sweep(tmp_path, monkeypatch, *output, "--resume", "--seeds", "2")
    runs = sweep(tmp_path, monkeypatch, *output, "--resume", "--trials", "11")
    assert len(runs.started) == 2 and len(table(tmp_path / "out")) == 11
