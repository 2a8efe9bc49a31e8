"""Damaged inputs for every reader, in worker processes with bounded memory and time."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.faults.mutations import mutate
from benchmarks.faults.readers import Target, targets
from benchmarks.faults.report import Attack
from utils.errors import UserError
from utils.os_errors import memory_sentence

MEMORY = 2 << 30  # bytes that a reader may take
HANG = 20.0  # seconds for one input
_CASES_OF_A_TURN = 200


def fuzz(samples: Path, seconds: float, seed: int, workers: int, kinds: list[str] | None = None) -> list[Attack]:
    """Reads damaged inputs of every kind in turn until the time is up."""
    found = {kind: target for kind, target in targets(samples).items() if kinds is None or kind in kinds}
    attacks = {kind: Attack(kind) for kind in found}
    deadline = time.monotonic() + seconds
    turns = _turns(list(found))
    running: dict[Connection, _Worker] = {}
    while running or time.monotonic() < deadline:
        while len(running) < workers and time.monotonic() < deadline:
            kind, first = next(turns)
            worker = _Worker(kind, found[kind], first, seed, deadline)
            running[worker.pipe] = worker
        for pipe in wait(list(running), timeout=1):
            running[pipe].receive(attacks)  # type: ignore[index]
        for pipe, worker in list(running.items()):
            if worker.ended(attacks):
                del running[pipe]
    return list(attacks.values())


def read_case(kind: str, target: Target, number: int, seed: int, scratch: Path) -> tuple[str, str]:
    """Damages one input and reads it; returns the verdict and what happened. The same arguments give the same input."""
    rng = random.Random(f"{seed} {kind} {number}")
    copy = scratch / str(number)
    shutil.copytree(target.directory, copy, copy_function=os.link)
    file = rng.choice([path for path in sorted(copy.glob(target.files)) if path.is_file()])
    damaged = mutate(file.read_bytes(), rng)
    file.unlink()  # the link, so that the sample stays as it is
    file.write_bytes(damaged)
    try:
        target.read(copy)
        verdict = "right", ""
    except (UserError, OSError):
        verdict = "clear error", ""
    except BaseException as error:
        memory = memory_sentence(error) is not None
        trace = "".join(traceback.format_exception(error)[-3:])
        verdict = "over 2 GB" if memory else "traceback", f"{file.relative_to(copy)}: {trace}"
    shutil.rmtree(copy)
    return verdict


def _turns(kinds: list[str]) -> Iterator[tuple[str, int]]:
    """Each kind with the number of the first case of its turn."""
    first = 0
    while True:
        yield from ((kind, first) for kind in kinds)
        first += _CASES_OF_A_TURN


class _Worker:
    """A process that reads the inputs of one turn."""

    def __init__(self, kind: str, target: Target, first: int, seed: int, deadline: float) -> None:
        self.kind, self.seed, self.case, self.last = kind, seed, first, time.monotonic()
        self.scratch = Path(tempfile.mkdtemp(prefix="faults-", dir=target.directory.parent))
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        arguments = (theirs, kind, target, first, seed, self.scratch, deadline)
        self.process: Any = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def receive(self, attacks: dict[str, Attack]) -> bool:
        """Takes the verdict of one case; returns False if no case is left."""
        try:
            self.case, verdict, details = self.pipe.recv()
        except EOFError:
            return False
        self.last = time.monotonic()
        if verdict:
            attacks[self.kind].add(verdict, f"case {self.case} of seed {self.seed}: {details}")
        return True

    def ended(self, attacks: dict[str, Attack]) -> bool:
        """Whether the process has ended; one that hangs is killed."""
        hangs = time.monotonic() - self.last > HANG
        if self.process.is_alive() and not hangs:
            return False
        while self.pipe.poll() and self.receive(attacks):
            pass
        if hangs or self.process.exitcode:
            self.process.kill()
            self.process.join()
            attacks[self.kind].add("hang" if hangs else "crash", f"case {self.case} of seed {self.seed}")
        self.pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return True


def _work(pipe: Connection, kind: str, target: Target, first: int, seed: int, scratch: Path, deadline: float) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    whole = scratch / "whole"
    shutil.copytree(target.directory, whole)
    target.read(whole)  # it must be right, and modules that are imported now do not count as the reader's memory
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for number in range(first, first + _CASES_OF_A_TURN):
        if time.monotonic() > deadline:
            return
        pipe.send((number, "", ""))
        pipe.send((number, *read_case(kind, target, number, seed, scratch)))
