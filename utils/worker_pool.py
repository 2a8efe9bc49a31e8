"""Calls a function in several processes, on this machine or on a Ray cluster.

Each worker has its own pipe and one call at a time, so memory is bounded and the death of a worker is always detected.
The standard library's executors hang if a worker is killed while large arguments wait for it (Python 3.10).
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import UserError

_PR_SET_PDEATHSIG = 1  # sys/prctl.h
_RAY_RETRIES = 10
RAY_ENVIRONMENT = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}  # workers find the packages
_Arguments = Sequence[tuple[Any, ...]]


class WorkerLostError(UserError):
    """A worker process was killed."""

    def __init__(self) -> None:
        super().__init__(
            "a worker process was killed, probably because memory ran out: free memory or use fewer workers, and run "
            "the same command again."
        )


def in_processes(
    function: Callable[..., Any], arguments: _Arguments, num_workers: int | None, *, fork: bool = True
) -> Iterator[tuple[int, Any]]:
    """Call `function(*arguments[number])` for every number in processes of this machine.

    Args:
        function: with `fork=False`, importable by name.
        arguments: one tuple for each call.
        num_workers: number of processes (default: one per core); 1 means this process.
        fork: whether workers are forked and inherit the arguments. Set it to False if this process has threads of a
            framework, which do not survive a fork: new processes are then started, and arguments are sent to them.

    Returns:
        each index with its result, in the order in which calls finish.

    Raises:
        WorkerLostError: a worker was killed.
        Exception: any exception that a call raises; its traceback in the worker is the cause.
    """
    num_workers = min(num_workers or os.cpu_count() or 1, len(arguments))
    if num_workers <= 1:
        yield from ((number, function(*each)) for number, each in enumerate(arguments))
        return
    context: Any = multiprocessing.get_context("fork" if fork else "spawn")
    workers: dict[Connection, BaseProcess] = {}
    unassigned = iter(range(len(arguments)))
    running = 0
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            inherited = (arguments, list(workers)) if fork else (None, [])
            process = context.Process(target=_work, args=(theirs, os.getpid(), function, *inherited), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
            running += _assign(ours, unassigned, None if fork else arguments)
        while running:
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                number, result, error = _receive(pipe)
                if error:
                    _raise(*error)
                running += _assign(pipe, unassigned, None if fork else arguments) - 1
                yield number, result
    finally:
        for process in workers.values():
            process.kill()  # a call can be interrupted anywhere
        for process in workers.values():
            process.join()


def _assign(pipe: Connection, unassigned: Iterator[int], arguments: _Arguments | None) -> int:
    """Send the next call to a worker that has none; return how many were sent."""
    number = next(unassigned, None)
    if number is None:
        return 0
    try:
        pipe.send((number, None if arguments is None else arguments[number]))
    except ConnectionError:
        raise WorkerLostError from None
    return 1


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):  # OSError: the worker was killed in the middle of a message
        raise WorkerLostError from None


def in_order(results: Iterator[tuple[int, Any]]) -> Iterator[Any]:
    """Yields the results of `in_processes` in the order of their indices."""
    early: dict[int, Any] = {}
    following = 0
    for number, result in results:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _work(
    pipe: Connection, parent: int, function: Callable[..., Any], inherited: _Arguments | None, others: list[Connection]
) -> None:
    """Serve one worker's pipe until the parent closes it."""
    for other in others:  # forked with the parent's ends of earlier pipes
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the parent handles Ctrl-C
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already fill the cores
    end_with_parent(parent)
    with suppress(EOFError, OSError):  # the parent has ended
        while True:
            number, sent = pipe.recv()
            try:
                pipe.send((number, function(*(sent if inherited is None else inherited[number])), None))
            except ConnectionError:
                raise
            except BaseException as error:
                pipe.send((number, None, (_picklable(error), traceback.format_exc())))


def end_with_parent(parent: int) -> None:
    """Lets the system kill this process when its parent process, which has the id `parent`, ends."""
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _picklable(error: BaseException) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None
    return error


class _WorkerTraceback(Exception):
    """The traceback of an error in a worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _raise(error: BaseException | None, trace: str) -> NoReturn:
    raise error or RuntimeError("a call in a worker process failed") from _WorkerTraceback(trace)


def connect_to_ray() -> Any:
    """The module `ray`, connected to the cluster that RAY_ADDRESS names or that this machine belongs to.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--runner ray needs Ray: install it with `make setup EXTRAS=ray`.") from None
    if not ray.is_initialized():
        try:
            ray.init("auto", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError:
            raise UserError(
                "--runner ray finds no cluster: start one with `ray start --head`, or set its address in RAY_ADDRESS."
            ) from None
    return ray


def on_ray(function: Callable[..., Any], arguments: _Arguments, num_workers: int | None) -> Iterator[tuple[int, Any]]:
    """`in_processes` on the Ray cluster that RAY_ADDRESS names or that this machine belongs to.

    A call whose node is lost is repeated.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    if not arguments:
        return
    ray = connect_to_ray()
    call = ray.remote(num_cpus=1, max_retries=_RAY_RETRIES)(_numbered).options(runtime_env=RAY_ENVIRONMENT)
    at_once = num_workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    unassigned = iter(enumerate(arguments))
    running: list[Any] = []
    while True:
        while len(running) < at_once and (job := next(unassigned, None)):
            running.append(call.remote(function, *job))
        if not running:
            return
        try:
            finished, running = ray.wait(running)
            yield from ray.get(finished)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError:  # a worker crashed on every retry, or a node or the cluster is lost
            raise WorkerLostError from None


def _numbered(function: Callable[..., Any], number: int, arguments: tuple[Any, ...]) -> tuple[int, Any]:
    return number, function(*arguments)
