"""Work in pieces that can be interrupted: each piece is done once, by any process, whatever the number of processes.

A piece is a function of its arguments and of files that earlier stages left; it returns a small JSON object, which is
kept in the work directory as the sign that it is done. A preparation that is started again skips those.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configs.prepare import WorkFlags
from data.records.ofrecord import WORK_DIRECTORY, read_dataset_json, write_atomically
from utils.errors import UserError

Result = dict[str, Any]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PR_SET_PDEATHSIG = 1  # sys/prctl.h

_NOT_WRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL
}  # fmt: skip
_LEFTOVER = ".tmp"
# What preparations leave; nothing else is ever deleted.
_RESULTS = re.compile(
    r"part-\d+(\.jsonl|\.npy)?|text-\d+\.txt|dataset\.json|offsets\.u64|vocab\.txt|tokenizer_config\.json|report\.(html|json)"
    r"|\.work|\..*\.tmp"
)


def open_work(
    output_dir: Path, plan: Mapping[str, Any], *, overwrite: bool, decides: Mapping[str, str] | None = None
) -> Path | None:
    """Makes the output directory ready; returns the directory for unfinished pieces, None if all is done already.

    Args:
        output_dir: where the results will be.
        plan: everything that decides them. An interrupted preparation of the same plan is continued.
        overwrite: delete what another plan left there.
        decides: {flag of the plan: the last stage, which alone it decides}. An interrupted preparation with another
            value of it is continued: what earlier stages did is kept.

    Raises:
        UserError: it holds the results of another plan, or cannot be written to.
    """
    work = output_dir / WORK_DIRECTORY
    content = json.dumps(plan, indent=1, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    with writing_to(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if (work / "plan.json").exists() and (work / "plan.json").read_bytes() == content:
            lock(work / "lock", output_dir)
            _remove_leftovers(output_dir)
            return work
        if decides and _differ_in(work / "plan.json", content) <= set(decides):
            lock(work / "lock", output_dir)
            _remove(path for path in results(output_dir) if path != work)
            _remove(path for stage in decides.values() for path in work.glob(f"{stage}-*.json"))
            write_atomically(work / "plan.json", content)
            return work
        if not work.exists() and _finished_plan(output_dir) == digest:
            _remove_leftovers(output_dir)
            return None
        if any(path.suffix != _LEFTOVER for path in results(output_dir)) and not overwrite:
            what = "an unfinished preparation with" if work.exists() else "the results of"
            raise UserError(
                f"--output_dir {output_dir} holds {what} other flags or input; name another directory or give "
                "--overwrite_output_dir."
            )
        remove_results(output_dir)
        unborn = work.with_suffix(_LEFTOVER)  # a work directory has its plan from the first moment to the last
        unborn.mkdir()
        write_atomically(unborn / "plan.json", content)
        unborn.rename(work)
        lock(work / "lock", output_dir)
    return work


def _finished_plan(output_dir: Path) -> str | None:
    """The hash of the plan whose results a directory holds."""
    return (read_dataset_json(output_dir) or read_clean_record(output_dir)).get("plan_sha256")


def write_clean_record(directory: Path, content: Mapping[str, Any]) -> None:
    """Notes what `clean` did to the text in a directory: beside it, because whatever is in it passes for text."""
    with suppress(OSError):  # the text is complete without it
        write_atomically(_clean_record(directory), json.dumps({**content, "sizes": _text_sizes(directory)}).encode())


def read_clean_record(directory: Path) -> dict[str, Any]:
    """What `write_clean_record` noted, if the text is still the one it was."""
    try:
        content: dict[str, Any] = json.loads(_clean_record(directory).read_bytes())
        return content if content["sizes"] == _text_sizes(directory) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _clean_record(directory: Path) -> Path:
    directory = directory.resolve()
    return directory.parent / f".{directory.name}.clean.json"


def _text_sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.glob("text-*.txt")}


def _differ_in(plan: Path, content: bytes) -> set[str]:
    """The entries in which the plan in a file, if there is one, differs from another."""
    if not plan.exists():
        return {"all"}
    old, new = json.loads(plan.read_bytes()), json.loads(content)
    return {name for name in {**old, **new} if old.get(name) != new.get(name)}


@contextmanager
def writing_to(output_dir: Path) -> Iterator[None]:
    """Inside, that the directory cannot be written to is the user's mistake."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise UserError(f"--output_dir {output_dir} cannot be written to: {error.strerror}.") from None


def lock(file: Path, output_dir: Path, take: Callable[[int, int], None] = fcntl.lockf) -> None:
    """Keeps other processes that lock this file out of the output directory until this one ends.

    Args:
        take: `fcntl.lockf`, whose lock workers do not inherit, or `fcntl.flock`, where the file is opened once more.

    Raises:
        UserError: another one is at work.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT)  # left open: whoever closes it gives the lock up
    try:
        take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process prepares {output_dir}: wait for it, or end it.") from None
    except OSError:  # a file system that knows no locks
        return


def results(output_dir: Path) -> list[Path]:
    """What preparations left in a directory, by name."""
    return sorted(path for path in output_dir.iterdir() if _RESULTS.fullmatch(path.name))


def remove_results(output_dir: Path) -> None:
    """Removes what preparations left in a directory, and nothing else."""
    _remove(results(output_dir))


def _remove_leftovers(output_dir: Path) -> None:
    """Removes what killed processes had not finished."""
    _remove(output_dir.glob(f".*{_LEFTOVER}"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class WorkKeptError(UserError):
    """Something is in the way, and what is done stays done: the next start goes on from there."""


class WorkerLostError(WorkKeptError):
    """A worker process was killed."""

    def __init__(self) -> None:
        super().__init__(
            "a worker process was killed (was memory short? --num_workers and --memory_mb bound it); run the same "
            "command again to go on."
        )


@contextmanager
def discarded_on_mistake(work: Path) -> Iterator[None]:
    """Removes the work directory where the user has to change input or flags, which would be another plan."""
    try:
        yield
    except WorkKeptError:
        raise
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def plan_sha256(work: Path) -> str:
    """What a finished set's `dataset.json` keeps of its plan, as `plan_sha256`."""
    return hashlib.sha256((work / "plan.json").read_bytes()).hexdigest()


def check_finished(directory: Path) -> None:
    """Raises UserError if a preparation in this directory was interrupted."""
    if (directory / WORK_DIRECTORY).exists():
        raise UserError(f"the preparation of {directory} was interrupted: run it again with the same flags.")


def run_pieces(
    work: Path,
    stage: str,
    function: Callable[..., Result],
    arguments: Sequence[tuple[Any, ...]],
    *,
    flags: WorkFlags,
    sizes: Sequence[int],
    unit: str,
    intact: Callable[[Result], bool] = lambda result: True,
) -> list[Result]:
    """Calls `function(work, index, *arguments[index])` for every piece that is not done, in several processes.

    Args:
        work: the work directory; all machines of a cluster must see it under this name.
        flags: how many processes, and whose.
        sizes: how large each piece is, in `unit`, for the progress display.
        intact: whether what an earlier start made of a piece is still there; else it is made again.

    Returns:
        every piece's result, in order.

    Raises:
        UserError: a worker was killed; whatever a piece raises.
    """
    done = {index: _done_file(work, stage, index) for index in range(len(arguments))}
    open_pieces = [
        index for index, file in done.items() if not (file.exists() and intact(json.loads(file.read_bytes())))
    ]
    jobs = [(work, stage, function, index, arguments[index]) for index in open_pieces]
    restored = sum(sizes) - sum(sizes[index] for index in open_pieces)
    with Progress(stage, sum(sizes), unit, restored) as progress:
        for index in _RUNNERS[flags.runner](jobs, flags.num_workers):
            progress.update(sizes[index])
    return [json.loads(file.read_bytes()) for file in done.values()]


_Job = tuple[Path, str, Callable[..., Result], int, tuple[Any, ...]]


def _run_here(jobs: Sequence[_Job], num_workers: int | None) -> Iterator[int]:
    """Runs the jobs in processes of this machine; yields the number of each piece that is done."""
    for _, index in in_processes(_run_piece, [(job,) for job in jobs], num_workers):
        yield index


def in_processes(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], num_workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Calls `function(*arguments[number])` for every number, in processes of this machine (default: one per core).

    Returns:
        each number with its result, as they are done.

    Raises:
        WorkerLostError: one of the processes was killed.
    """
    workers = min(num_workers or os.cpu_count() or 1, len(arguments))
    if workers <= 1:
        yield from ((number, function(*each)) for number, each in enumerate(arguments))
        return
    # Workers inherit the arguments. Sent to them, large ones fill the pipe, and where no worker is left to read it the
    # standard library waits for ever.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (os.getpid(), function, arguments))
    try:
        for job in as_completed([pool.submit(_call_inherited, number) for number in range(len(arguments))]):
            yield job.result()
        pool.shutdown()
    except BaseException as error:
        # A broken pool may wait for its other workers for ever; and a piece can be interrupted anywhere.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise WorkerLostError from None
        raise


_inherited: tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]


def _begin_worker(parent: int, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
    """A worker ends with the process that started it, which alone answers Ctrl-C."""
    global _inherited
    _inherited = function, arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _call_inherited(number: int) -> tuple[int, Any]:
    function, arguments = _inherited
    return number, function(*arguments[number])


def _run_on_ray(jobs: Sequence[_Job], num_workers: int | None) -> Iterator[int]:
    """`_run_here` on the Ray cluster that RAY_ADDRESS names, or this machine belongs to; lost pieces are done again."""
    if not jobs:
        return
    try:
        import ray
    except ImportError:
        raise UserError("--runner ray needs Ray: `make setup EXTRAS=ray` installs it.") from None
    if not ray.is_initialized():
        try:
            ray.init("auto", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError:
            raise UserError(
                "--runner ray finds no cluster: start one with `ray start --head`, or name one in RAY_ADDRESS."
            ) from None
    run = ray.remote(num_cpus=1, max_retries=10)(_run_piece).options(
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent.parent)}}
    )
    at_once = num_workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[_Job] = list(reversed(jobs))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(run.remote(waiting.pop()))
        try:
            finished, running = ray.wait(running)
            yield from ray.get(finished)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError:  # a worker that crashed ten times, a node or the cluster that is gone
            raise WorkerLostError from None


_RUNNERS = {"local": _run_here, "ray": _run_on_ray}


def _done_file(work: Path, stage: str, index: int) -> Path:
    return work / f"{stage}-{index:06d}.json"


def _run_piece(job: _Job) -> int:
    work, stage, function, index, arguments = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process, one core
    _keep_freed_memory()
    result = function(work, index, *arguments)
    write_atomically(_done_file(work, stage, index), json.dumps(result).encode())
    return index


def _keep_freed_memory() -> None:
    """glibc returns the memory of large arrays at once, and asking for it anew costs a page fault every 4 KB."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


class Progress:
    """A bar with rate and time left on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, title: str, total: int | None, unit: str, restored: int = 0) -> None:
        """`restored` of the total (None: unknown) was done by an earlier start, and tells nothing about the rate."""
        self._terminal = sys.stderr.isatty()
        columns, lines = shutil.get_terminal_size()  # never 0, as terminals of no size say: tqdm would show nothing
        self._bar = tqdm(
            total=total, initial=restored, desc=title, unit=unit, unit_scale=True, file=sys.stderr,
            disable=not self._terminal, leave=True, ncols=columns, nrows=lines,
        )  # fmt: skip
        self._title, self._total, self._unit, self._restored = title, total, unit, restored
        self._count, self._started, self._said = restored, time.monotonic(), time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def update(self, count: int) -> None:
        """So much more is done."""
        self._count += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._terminal and now - self._said > 10:
            self._said = now
            self._say(now - self._started)

    def _say(self, seconds: float) -> None:
        rate = (self._count - self._restored) / max(seconds, 1e-9)
        total, left = "", ""
        if self._total is not None:
            total = f" of {self._total:,}"
            left = f", {(self._total - self._count) / rate if rate else 0:,.0f} s left"
        speed = f"{rate:,.0f} {self._unit}/s"
        print(f"{self._title}: {self._count:,}{total} {self._unit}, {speed}{left}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def finish(output_dir: Path) -> None:
    """Removes the work directory and what killed processes left: the results are complete."""
    work = output_dir / WORK_DIRECTORY
    work.rename(work.with_suffix(_LEFTOVER))
    _remove_leftovers(output_dir)
