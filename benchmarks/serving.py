"""Measures serve.py with many clients: `python -m benchmarks.serving [--clients 32] [--seconds 30] [--model_path DIR]`.

The same texts of mixed lengths go through `Model.stream` and then, one text per request, through the service. The
service's answers are compared with the streamed ones; then many more clients than the queue takes ask at once. Without
--model_path, a random model is used: its answers are meaningless, but its speed is realistic.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference import random_model, texts
from configs.model import PRESETS
from conversion.tokenizer_files import SPECIAL_TOKENS
from data.tokenization import load_vocab
from inference import load

_CLIENTS_OF_OVERLOAD, _QUEUE_OF_OVERLOAD = 200, 2048
_SECONDS_OF_OVERLOAD = 5.0


@dataclass
class Load:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)  # of each answer
    statuses: Counter[int] = field(default_factory=Counter)
    largest_difference: float = 0.0

    def row(self, started: float) -> dict[str, Any]:
        """The figures."""
        answered = self.statuses[200]
        return {
            "rows per second": round(answered / (time.perf_counter() - started), 1),
            "statuses": dict(self.statuses),
            "median ms": round(1000 * float(np.percentile(self.seconds, 50)), 1),
            "99th percentile ms": round(1000 * float(np.percentile(self.seconds, 99)), 1),
            "largest difference of scores": self.largest_difference,
        }


def main() -> None:
    """Prints one line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, help="a model with a masked-LM head")
    parser.add_argument("--model_size", default="mini", choices=sorted(PRESETS), help="of the random model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rows", type=int, default=4000, help="different texts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.model_path or random_model(Path(directory), arguments.model_size)
        words = [word for word in load_vocab(path) if word not in SPECIAL_TOKENS and not word.startswith("##")]
        rows = texts(words, arguments.rows)
        expected, offline = stream(path, rows)
        print(json.dumps({"measurement": "Model.stream", **offline}), flush=True)
        with service(path) as (port, process):
            asyncio.run(drive(port, rows, expected, arguments.clients, 3))  # warm-up
            before = resident_mb(process.pid)
            started = time.perf_counter()
            found = asyncio.run(drive(port, rows, expected, arguments.clients, arguments.seconds))
            row = found.row(started)
            row |= {"MB before": before, "MB after": resident_mb(process.pid)}
            row |= batches(port)
            row["part of Model.stream"] = round(row["rows per second"] / offline["rows per second"], 3)
            print(json.dumps({"measurement": f"{arguments.clients} clients", **row}), flush=True)
        with service(path, "--max_queue_tokens", str(_QUEUE_OF_OVERLOAD)) as (port, _):
            started = time.perf_counter()
            found = asyncio.run(drive(port, rows, expected, _CLIENTS_OF_OVERLOAD, _SECONDS_OF_OVERLOAD))
            print(json.dumps({"measurement": "overload", **found.row(started)}), flush=True)
            started = time.perf_counter()
            found = asyncio.run(drive(port, rows, expected, 2, 2))
            print(json.dumps({"measurement": "after the overload", **found.row(started)}), flush=True)


def stream(path: Path, rows: list[str]) -> tuple[list[Any], dict[str, float]]:
    """The answers to all rows, how fast they came, and how long a full batch takes."""
    model = load(path, batch_size=64)
    for _ in model.stream("fill-mask", ({"text": text} for text in rows[:200])):
        pass
    started = time.perf_counter()
    answers = list(model.stream("fill-mask", ({"text": text} for text in rows)))
    speed = len(rows) / (time.perf_counter() - started)
    pipeline = model.pipeline("fill-mask")
    longest = max((pipeline.encode({"text": text})[0] for text in rows), key=lambda example: len(example.input_ids))
    batch = [longest] * model.runner.rows([len(longest.input_ids)] * model.runner.batch_size)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        list(model.runner.run(batch, pipeline.outputs))
        times.append(time.perf_counter() - started)
    return answers, {"rows per second": round(speed, 1), "full batch ms": round(1000 * float(np.median(times)), 1)}


@contextmanager
def service(path: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """serve.py on a free port."""
    command = [sys.executable, "serve.py", "--model_path", str(path), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert process.stdout
    port = 0
    for line in process.stdout:
        event = json.loads(line)
        if event["message"] == "starting":
            port = int(event["url"].rsplit(":", 1)[1])
        if event["message"] == "ready":
            break
    drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    try:
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        drain.wait(10)


async def drive(port: int, rows: list[str], expected: list[Any], clients: int, seconds: float) -> Load:
    """Many clients ask one text after the other; a refused one waits as it was told."""
    found = Load()
    numbers = itertools.count()
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            number = next(numbers) % len(rows)
            started = time.perf_counter()
            status, answer = await ask(reader, writer, rows[number])
            found.statuses[status] += 1
            if status == 200:
                found.seconds.append(time.perf_counter() - started)
                pairs = zip(answer, expected[number], strict=True)
                difference = max(abs(ours["score"] - theirs["score"]) for ours, theirs in pairs)
                found.largest_difference = max(found.largest_difference, difference)
            else:
                await asyncio.sleep(0.1)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> tuple[int, Any]:
    """One request on an open connection: the status and the body."""
    body = json.dumps({"inputs": text}).encode()
    writer.write(
        b"POST /fill-mask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), json.loads(await reader.readexactly(length))


def batches(port: int) -> dict[str, float]:
    """What /metrics tells of the batches."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = [line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#"]
    values = {name: float(value) for name, value in lines}
    count = values["bert_batch_rows_count"]
    return {
        "rows per batch": round(values["bert_batch_rows_sum"] / count, 1),
        "ms per batch": round(1000 * values["bert_inference_seconds_sum"] / count, 1),
        "padding": round(1 - values["bert_batch_tokens_sum"] / values["bert_padded_tokens_total"], 3),
        "seconds computing": round(values["bert_inference_seconds_sum"], 1),
    }


def resident_mb(pid: int) -> int:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
