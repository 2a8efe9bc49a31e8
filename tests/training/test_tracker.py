"""Experiment trackers, with stand-ins for their libraries: what they receive, and that they stay offline."""

import os
import sys
from types import SimpleNamespace

import pytest

from tests.training.whole_runs import train
from training.journal import Journal, read_rows
from training.tracker import tracker_of
from utils.errors import UserError


class Calls(list):
    """A stand-in for a library or its objects: records calls as (name, arguments, keyword arguments)."""

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.append((name, args, kwargs))
            return self

        return call

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self if called == name]


@pytest.fixture
def library(monkeypatch):
    """A function that installs a stand-in for a library, in an environment without its settings."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)

    def install(name):
        calls = Calls()
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{each: getattr(calls, each) for each in FUNCTIONS}))
        return calls

    monkeypatch.setattr(os, "environ", dict(os.environ))  # the trackers set defaults
    return install


FUNCTIONS = "init Settings set_tracking_uri set_experiment start_run log_params log_metrics end_run".split()


def report(tracker, directory):
    with Journal(directory, first_step=0, total_steps=3, tracker=tracker) as journal:
        journal.training_row(0, 0, {"total_loss": 1.5, "lr": 0.25, "accuracy": None}, ())
        journal.evaluation_row(1, {"eval_score": 0.5})


EXPECTED = [({"total_loss": 1.5, "lr": 0.25}, 0), ({"eval_score": 0.5}, 1)]


def test_weights_and_biases_records_offline(tmp_path, library):
    calls = library("wandb")
    report(tracker_of("wandb", tmp_path / "run", {"lr": 0.25}), tmp_path / "run")
    ((_, started),) = calls.of("init")
    assert (started["mode"], started["dir"], started["name"]) == ("offline", str(tmp_path / "run"), "run")
    assert started["config"] == {"lr": 0.25} and os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert [(args[0], kwargs["step"]) for args, kwargs in calls.of("log")] == EXPECTED
    assert calls[-1][0] == "finish"


def test_mlflow_records_to_the_output_directory(tmp_path, library):
    calls = library("mlflow")
    report(tracker_of("mlflow", tmp_path / "run", {"lr": 0.25}), tmp_path / "run")
    assert calls.of("set_tracking_uri") == [((f"sqlite:///{tmp_path}/run/mlflow.db",), {})]
    assert calls.of("start_run") == [((), {"run_name": "run"})] and calls.of("log_params") == [(({"lr": 0.25},), {})]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert [(args[0], kwargs["step"]) for args, kwargs in calls.of("log_metrics")] == EXPECTED
    assert calls[-1][0] == "end_run"


def test_the_environment_decides_where_to_send(tmp_path, library):
    os.environ.update(WANDB_MODE="online", MLFLOW_TRACKING_URI="http://localhost:5000")
    wandb, mlflow = library("wandb"), library("mlflow")
    report(tracker_of("wandb", tmp_path, {}), tmp_path)
    report(tracker_of("mlflow", tmp_path, {}), tmp_path)
    assert wandb.of("init")[0][1]["mode"] == "online"
    assert mlflow.of("set_tracking_uri") == [(("http://localhost:5000",), {})]


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, capsys):
    class Failing(Calls):
        def log(self, step, metrics):
            raise ConnectionError("no route to host")

    report(Failing(), tmp_path)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2
    assert capsys.readouterr().err.count("failed and receives no more metrics: no route to host") == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_one_sentence(records_dir, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"--report_to {name} needs the package {name}.*: install it"):
        train("eager", records_dir, tmp_path / "out", "--report_to", name, "--max_steps", "1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tensorboard", "none"])
def test_other_values_need_no_tracker(tmp_path, name):
    assert tracker_of(name, tmp_path, {}) is None
