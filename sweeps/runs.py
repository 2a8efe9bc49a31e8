"""Runs training commands as processes, on this machine or on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from utils.worker_pool import RAY_ENVIRONMENT, connect_to_ray, end_with_parent

POLL_SECONDS = 0.2
_STOP_SECONDS = 60  # for a run to save a checkpoint after SIGTERM


class Run(Protocol):
    """A training command that has been started."""

    def poll(self) -> int | None:
        """The exit code, or None while the run continues."""
        ...

    def stop(self, *, save: bool) -> None:
        """Ends the run, if it has not ended, and waits until it has.

        Args:
            save: whether the run may save a checkpoint first.
        """
        ...


StartRun = Callable[[Sequence[str], Path], Run]  # starts a command line, whose output goes to a file


class LocalRun:
    """A process on this machine. The system kills it when this process ends."""

    def __init__(self, argv: Sequence[str], log: Path, directory: str | None = None) -> None:
        parent = os.getpid()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the sweep, which then stops its runs
                preexec_fn=lambda: end_with_parent(parent),
            )

    def poll(self) -> int | None:
        """See `Run`."""
        return self._process.poll()

    def stop(self, *, save: bool) -> None:
        """See `Run`."""
        if save:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self._process.kill()
        self._process.wait()


def ray_runs() -> StartRun:
    """Connects to a Ray cluster, whose hosts must share the disk; returns the function that starts runs there.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    ray = connect_to_ray()
    call = ray.remote(num_cpus=1)(_run_until_stopped).options(runtime_env=RAY_ENVIRONMENT)
    return lambda argv, log: RayRun(ray, call, argv, log)


class RayRun:
    """A process on any host of a Ray cluster. Ray restarts it if its host is lost."""

    def __init__(self, ray: Any, call: Any, argv: Sequence[str], log: Path) -> None:
        self._ray, self._stop_file = ray, log.with_suffix(".stop")
        log.parent.mkdir(parents=True, exist_ok=True)
        self._stop_file.unlink(missing_ok=True)
        self._result = call.remote(list(argv), log, self._stop_file, os.getcwd())

    def poll(self) -> int | None:
        """See `Run`."""
        if not self._ray.wait([self._result], timeout=0)[0]:
            return None
        try:
            code: int = self._ray.get(self._result)
        except self._ray.exceptions.RayError:  # the run crashed its worker on every retry, or the cluster is lost
            return -1
        return code

    def stop(self, *, save: bool) -> None:
        """See `Run`."""
        self._stop_file.write_text("save" if save else "")
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._result, timeout=2 * _STOP_SECONDS)
        self._stop_file.unlink(missing_ok=True)


def _run_until_stopped(argv: Sequence[str], log: Path, stop_file: Path, directory: str) -> int:
    """Runs a command until it ends, or until the stop file exists; returns its exit code."""
    run = LocalRun(argv, log, directory)
    while (code := run.poll()) is None:
        time.sleep(POLL_SECONDS)
        if stop_file.exists():
            run.stop(save=bool(stop_file.read_text()))
    return code
