"""Divides work into pieces that are each done once, by any process, so that it can be interrupted.

A piece is a function of its arguments and of the files of earlier stages. It returns a small JSON object, which
is stored in the work directory to mark the piece as done. A restarted preparation skips finished pieces.
"""

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.prepare import WorkFlags
from utils.atomic_files import write_atomically
from utils.progress import Progress
from utils.worker_pool import in_processes, on_ray

Result = dict[str, Any]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_RUNNERS = {"local": in_processes, "ray": on_ray}


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
    """Call `function(work, index, *arguments[index])` for every piece that is not done, in several processes.

    Args:
        work: the work directory; every machine of a cluster must see it under this name.
        stage: a name for the progress display and for the files of results.
        function: processes one piece.
        arguments: the arguments for each piece.
        flags: the number of processes and the runner.
        sizes: the size of each piece in `unit`, for the progress display.
        unit: such as "B" or "records".
        intact: checks that the output of a finished piece still exists; if not, the piece is repeated.

    Returns:
        the result of every piece, in order.

    Raises:
        WorkerLostError: a worker was killed.
        Exception: any exception that a piece raises.
    """
    done = {index: _done_file(work, stage, index) for index in range(len(arguments))}
    todo = [index for index, file in done.items() if not (file.exists() and intact(json.loads(file.read_bytes())))]
    jobs = [(work, stage, function, index, arguments[index]) for index in todo]
    restored = sum(sizes) - sum(sizes[index] for index in todo)
    with Progress(stage, sum(sizes), unit, restored) as progress:
        for number, _ in _RUNNERS[flags.runner](_run_piece, jobs, flags.num_workers):
            progress.update(sizes[todo[number]])
    return [json.loads(file.read_bytes()) for file in done.values()]


def _done_file(work: Path, stage: str, index: int) -> Path:
    return work / f"{stage}-{index:06d}.json"


def _run_piece(work: Path, stage: str, function: Callable[..., Result], index: int, arguments: tuple[Any, ...]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process uses one core
    _keep_freed_memory()
    result = function(work, index, *arguments)
    write_atomically(_done_file(work, stage, index), json.dumps(result).encode())


def _keep_freed_memory() -> None:
    """Keep glibc from returning the memory of large arrays: getting it back costs a page fault for every 4 KB."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
