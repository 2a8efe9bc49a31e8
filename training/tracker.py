"""Sends a run's metrics to the experiment tracker of --report_to, in addition to metrics.jsonl and TensorBoard.

Nothing leaves this machine unless the user's environment allows it: Weights & Biases records offline unless WANDB_MODE
is set, and MLflow writes to the output directory unless MLFLOW_TRACKING_URI is set. By default the libraries also
report their usage or errors, which is disabled here unless the environment sets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from utils.errors import UserError

_PROJECT = "oneflow-bert"


class Tracker(Protocol):
    """An experiment tracker. Each start of a training command is a separate run."""

    def start(self) -> None:
        """Begins a run."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of a step."""
        ...

    def finish(self) -> None:
        """Ends the run."""
        ...


def tracker_of(name: str, directory: Path, settings: Mapping[str, Any]) -> Tracker | None:
    """The tracker of --report_to; None for `tensorboard` and `none`.

    Args:
        name: the flag's value.
        directory: the output directory, after which the run is named.
        settings: all flags, which are recorded.

    Raises:
        UserError: the tracker's library is not installed.
    """
    trackers: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}
    return trackers[name](directory, settings) if name in trackers else None


class WeightsAndBiases:
    """Records to `wandb/` in the output directory, from where `wandb sync` uploads it."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = _import("wandb")
        self._directory, self._settings = directory, settings

    def start(self) -> None:
        """See `Tracker`."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=self._directory.resolve().name,
            dir=str(self._directory),
            config=dict(self._settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=self._wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MLflow:
    """Records to the database `mlflow.db` in the output directory, or to the server of MLFLOW_TRACKING_URI."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow = _import("mlflow")
        self._directory, self._settings = directory, settings

    def start(self) -> None:
        """See `Tracker`."""
        local = f"sqlite:///{self._directory.resolve() / 'mlflow.db'}"
        self._mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", local))
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        self._mlflow.start_run(run_name=self._directory.resolve().name)
        self._mlflow.log_params(self._settings)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._mlflow.end_run()


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        missing = f" ({error})" if error.name != name else ""
        raise UserError(
            f"--report_to {name} needs the package {name}{missing}: install it as docs/training.md describes, or omit "
            "the flag."
        ) from None
