"""Workers of the benchmark. Each measures one case in a process of its own and runs a few steps at a time on request,
so that the sides take turns and see the same state of the machine.

A worker writes JSON lines: {"ready": true} when warm, then, for each number n that it reads from standard input, the
seconds of n steps and the peak memory so far. One step before the n is not counted. This module uses only the standard
library, because Hugging Face's environment imports it, too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """What to measure.

    `kind` names the way it is done: ours "eager" or "graph"; Hugging Face's "as_it_comes", "same_work" or "compiled";
    another runtime's "onnxruntime" or "openvino".
    """

    task: str  # a key of ROWS, or "records"
    kind: str
    precision: str = "fp32"  # or bf16, int8
    threads: int | None = None


# Rows per batch, sequence length and masked-LM predictions per sequence. The model of an encoder task is
# ModernBERT-base: inference, or a training step with a question-answering head. The others are BERT-base.
ROWS = {"pretraining": 8, "squad": 4, "inference_1": 1, "inference_32": 32}
LENGTH = {"pretraining": 128, "squad": 384, "inference_1": 128, "inference_32": 128}
ENCODER = ("encoder_8x512", "encoder_1x2048", "encoder_step")
ROWS |= dict(zip(ENCODER, (8, 1, 4), strict=True))
LENGTH |= dict(zip(ENCODER, (512, 2048, 512), strict=True))
PREDICTIONS = 20
SENTENCES = 128  # sentences of mixed lengths in one step of inference_32


def sentence_lengths() -> list[int]:
    """The number of tokens of each sentence: from 8 to 128, mostly short, the same in every run."""
    return [8 + (number * 7919 % 121) * (number * 104729 % 97) // 96 for number in range(SENTENCES)]


def named_case() -> Case:
    """The case given as JSON on the worker's command line."""
    return Case(**json.loads(sys.argv[1]))


def serve(make_step: Callable[[Case], Callable[[], None]]) -> None:
    """Run the case of the command line until standard input ends."""
    step = make_step(named_case())
    for _ in range(2):
        step()
    output = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps({"ready": True}), file=output)
    for line in sys.stdin:
        step()  # warms up caches and threads after the turn of another worker
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), file=output)


class Worker:
    """Starts a worker process and requests steps from it."""

    def __init__(self, python: Path, module: str, case: Case, **variables: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        if case.threads:
            environment["OMP_NUM_THREADS"] = str(case.threads)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the worker
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}", json.dumps(vars(case))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.case = case
        self.seconds: list[float] = []
        self.peak_bytes = 0.0

    def wait(self) -> None:
        """Wait until the worker is warm or has run the requested steps; store what it measured.

        Raises:
            RuntimeError: the worker ended.
        """
        assert self.process.stdout
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                reply = json.loads(line)
                self.seconds += reply.get("seconds", [])
                self.peak_bytes = reply.get("peak_bytes", self.peak_bytes)
                return
        self.errors.seek(0)
        raise RuntimeError(f"the worker for {self.case} ended:\n{self.errors.read()[-2000:]}")

    def ask(self, steps: int) -> None:
        """Request steps; `wait` waits for them."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()


def close(workers: Collection[Worker]) -> None:
    """End all workers. Standard inputs are closed first, because the ranks of one job end together."""
    for worker in workers:
        assert worker.process.stdin
        worker.process.stdin.close()
    for worker in workers:
        worker.process.wait()
        worker.errors.close()
