"""SIGKILL at random moments, over training in both modes and every preparing command.

A command that was killed, maybe several times, and then ends must leave the same bytes as one that was never killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.report import Attack
from benchmarks.faults.samples import MODEL, ROOT, environment, squad_file, write_text

_STEPS = 40
_MOST_KILLS = 3  # of one run, before it may end


@dataclass(frozen=True)
class Command:
    """A command whose result is compared.

    Attributes:
        name: for the report.
        words: the script and its flags; "OUT" stands for the output directory.
        results: the files of the output directory that must be equal; directories stand for all files in them.
        ranks: how many processes the launcher starts.
        again: flags of a start after a kill.
    """

    name: str
    words: tuple[str, ...]
    results: tuple[str, ...]
    ranks: int = 1
    again: tuple[str, ...] = ()

    def start(self, output: Path, *more: str) -> subprocess.Popen[bytes]:
        """Starts it in a process group of its own, so that all of its processes can be killed at once."""
        words = [word.replace("OUT", str(output)) for word in self.words]
        launcher: list[str] = []
        if self.ranks > 1:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            launcher = f"-m oneflow.distributed.launch --nproc_per_node {self.ranks} --nnodes 1 --node_rank 0".split()
            launcher += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        with (output.parent / f"{output.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *launcher, str(ROOT / words[0]), *words[1:], *more],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,
            )


def commands(samples: Path, work: Path) -> list[Command]:
    """All commands whose results must be exact."""
    text, vocab = work / "text.txt", samples / "vocab.txt"
    write_text(text, 3000, seed=7)
    squad_file(work / "squad.json", 300)
    prepare = (
        *("prepare_data.py", "pretraining", "--input_file", str(text), "--vocab_file", str(vocab)),
        *("--num_shards", "3", "--output_dir", "OUT", "--max_seq_length", "24", "--max_predictions_per_seq", "4"),
        *("--num_workers", "2"),
    )
    found = [
        Command("clean", ("prepare_data.py", "clean", "--input_file", str(text), "--output_dir", "OUT/c"), ("c",)),
        Command(
            "vocab",
            ("prepare_data.py", "vocab", "--input_file", str(text), "--vocab_file", "OUT/v.txt", "--vocab_size", "150"),
            ("v.txt",),
        ),
        Command("pretraining", (*prepare, "--dupe_factor", "3"), (".",)),
        Command("pretraining, sorted", (*prepare, "--bin_size", "8", "--remove_duplicates", "documents"), (".",)),
        Command(
            "squad",
            (
                *("prepare_data.py", "squad", "--input_file", str(work / "squad.json"), "--output_dir", "OUT/s"),
                *("--vocab_file", str(vocab), "--max_seq_length", "40", "--max_query_length", "9", "--doc_stride", "7"),
                *("--num_shards", "2", "--is_training"),
            ),
            ("s",),
        ),
        Command(
            "inspect",
            ("prepare_data.py", "inspect", "--input_dir", str(samples / "ofrecord"), "--report_dir", "OUT"),
            (".",),
        ),
    ]
    results = tuple(
        f"checkpoint-{_STEPS}/{name}"
        for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/state.json")
    )
    for script, ranks, accumulation in (
        *(("run_eager_pretraining.py", 1, 1), ("run_pretraining.py", 1, 2)),
        *(("run_eager_pretraining.py", 2, 2), ("run_pretraining.py", 2, 1)),
    ):
        words = (
            *(
                script,
                *MODEL,
                "--ofrecord_path",
                str(samples / "ofrecord"),
                "--output_dir",
                "OUT",
                "--num_threads",
                "1",
            ),
            *("--max_steps", str(_STEPS), "--model_save_every_n_iter", "3", "--loss_print_every_n_iters", "1"),
            *("--grad_acc_steps", str(accumulation), "--skip_loss_spikes", "--spike_factor", "1.3"),
        )
        name = f"{'eager' if 'eager' in script else 'graph'}, {ranks} ranks, {accumulation} micro-batches"
        found.append(Command(name, words, results, ranks, ("--resume",)))
    return found


def kill(samples: Path, work: Path, seconds: float, seed: int) -> list[Attack]:
    """Kills each command in turn until the time is up."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    attacks: dict[str, Attack] = {}
    whole: dict[str, tuple[Path, float]] = {}
    every = commands(samples, work)
    while time.monotonic() < deadline:
        for number, command in enumerate(every):
            if time.monotonic() > deadline:
                break
            attack = attacks.setdefault(command.name, Attack(f"kill {command.name}"))
            if command.name not in whole:
                whole[command.name] = _run_whole(command, work / f"whole-{number}")
                continue
            _attack(command, *whole[command.name], work / "killed", rng, attack)
    return list(attacks.values())


def _run_whole(command: Command, output: Path) -> tuple[Path, float]:
    output.mkdir()
    begun = time.monotonic()
    if command.start(output).wait(timeout=300):
        raise RuntimeError(f"{command.name} failed: {output.with_name(f'{output.name}.log').read_text()[-2000:]}")
    return output, time.monotonic() - begun


def _attack(command: Command, whole: Path, duration: float, output: Path, rng: random.Random, attack: Attack) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    log = output.with_name(f"{output.name}.log")
    log.unlink(missing_ok=True)
    moments, more = [], tuple[str, ...]()
    for _ in range(rng.randrange(1, _MOST_KILLS + 1)):
        moments.append(round(rng.uniform(0, duration), 3))
        process = command.start(output, *more)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments[-1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        more = command.again
    process = command.start(output, *more)
    try:
        code: int | str = process.wait(timeout=20 * duration + 60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = "a hang"
    where = f"killed after {moments} s"
    if code:
        attack.add("fault", f"{where}: ended with {code}: {log.read_text(errors='replace')[-600:]}", len(moments))
        return
    different = _differences(command, whole, output)
    attack.add("other bytes" if different else "right", f"{where}: {', '.join(different)}", len(moments))


def _differences(command: Command, whole: Path, output: Path) -> list[str]:
    """The files that a killed and an unkilled command do not have in common, or not with the same bytes."""
    first, other = (_content(command.results, directory) for directory in (whole, output))
    different = [name for name in sorted({**first, **other}) if first.get(name) != other.get(name)]
    return different + (["losses"] if _losses(whole) != _losses(output) else [])


def _content(names: Sequence[str], directory: Path) -> dict[str, bytes]:
    files = [
        file
        for name in names
        for file in ([directory / name] if (directory / name).is_file() else (directory / name).rglob("*"))
    ]
    return {
        str(file.relative_to(directory)): _without_paths(file, directory)
        for file in files
        if file.is_file() and not file.name.startswith(".")
    }


def _without_paths(file: Path, directory: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix not in (".json", ".html"):
        return content
    return content.replace(str(directory).encode(), b"").replace(directory.name.encode(), b"")


def _losses(directory: Path) -> list[tuple[int, float]]:
    metrics = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    return [(row["step"], row["total_loss"]) for row in rows if "total_loss" in row]
