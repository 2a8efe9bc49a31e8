"""Compares `prepare_data.py pretraining` with Google's algorithm: `python -m benchmarks.preparation`, or `--help`.

It compares the CPU time per record on one core. The stand-in for Google's code runs on a megabyte of the text, because
its time per record does not depend on the size; ours runs on all of it, start and report included. The output is lines
such as `preparation_ratio_per_core_dupe_10 21.3`.
"""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.google_pretraining_data import create_instances, read_documents, serialize
from benchmarks.google_tokenization import FullTokenizer
from benchmarks.worker import ROOT
from configs.cli import flag, parse, run
from data.ofrecord import open_records
from data.preparation.inputs import input_files
from data.tokenization import load_vocab
from examples.demo import write_python_documentation

LENGTH, PREDICTIONS = 128, 20
DUPE_FACTORS = (1, 10)
VARIED = 0.05  # fraction of new words in each repetition, as in real text of that size


@dataclass(frozen=True)
class PreparationConfig:
    """What to prepare."""

    input_file: tuple[str, ...] = flag((), "text (default: Python's own documentation)")
    vocab_file: str = flag("", "vocabulary (default: one of 30,522 entries made from the text)")
    text_mb: int = flag(40, "repeat the text, with variations, up to this size", unit="MB")


def main() -> None:
    config = parse(PreparationConfig, prog="python -m benchmarks.preparation", description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if not config.input_file:
            write_python_documentation(directory / "raw")
        _command(
            "clean", "--input_file", *(config.input_file or [directory / "raw"]), "--output_dir", directory / "text"
        )
        text, vocab_file = directory / "repeated.txt", config.vocab_file or directory / "vocab.txt"
        with text.open("w", encoding="utf-8") as file:
            for part in repeated(input_files([str(directory / "text")]), config.text_mb << 20):
                file.write(part)
        if not config.vocab_file:
            _command("vocab", "--input_file", directory / "text", "--vocab_file", vocab_file)
        for dupe_factor in DUPE_FACTORS:
            reference = _reference_seconds(text, str(vocab_file), dupe_factor)
            walls = []
            for workers in (1, 2):
                output = directory / f"records_{dupe_factor}_{workers}"
                flags = ["--max_seq_length", LENGTH, "--max_predictions_per_seq", PREDICTIONS, "--num_workers", workers]
                flags += ["--dupe_factor", dupe_factor]
                started, used = time.perf_counter(), _children_seconds()
                _command(
                    "pretraining", "--input_file", text, "--vocab_file", vocab_file, "--output_dir", output, *flags
                )
                walls.append(time.perf_counter() - started)
                if workers == 1:
                    ours = (_children_seconds() - used) / len(open_records(output))
            print(f"preparation_microseconds_reference_dupe_{dupe_factor} {1e6 * reference:.4g}")
            print(f"preparation_microseconds_dupe_{dupe_factor} {1e6 * ours:.4g}")
            print(f"preparation_ratio_per_core_dupe_{dupe_factor} {reference / ours:.3g}")
            print(f"preparation_two_workers_ratio_dupe_{dupe_factor} {walls[0] / walls[1]:.3g}", flush=True)


def repeated(files: list[Path], size: int) -> Iterator[str]:
    """Copies of the text, up to `size` bytes in all; every copy after the first has words that occur nowhere else."""
    rng = random.Random(0)
    for copy in count():
        for file in files:
            words = file.read_text(encoding="utf-8").split(" ")
            if copy:
                for index in rng.sample(range(len(words)), int(VARIED * len(words))):
                    words[index] += rng.choice("abcdefgh") + str(copy)
            part = ("\n" if copy or file != files[0] else "") + " ".join(words)
            size -= len(part.encode())
            if size < 0:
                return
            yield part


def _reference_seconds(text: Path, vocab_file: str, dupe_factor: int) -> float:
    """CPU seconds per record of the stand-in for Google's code."""
    with text.open(encoding="utf-8") as file:
        lines = file.readlines(1 << 20)
    started = time.process_time()
    vocab = load_vocab(vocab_file)
    tokenizer, rng = FullTokenizer(vocab), random.Random(0)
    instances = create_instances(
        read_documents(lines, tokenizer, rng),
        list(vocab),
        rng,
        max_seq_length=LENGTH,
        dupe_factor=dupe_factor,
        short_seq_prob=0.1,
        masked_lm_prob=0.15,
        max_predictions_per_seq=PREDICTIONS,
    )
    with tempfile.TemporaryFile() as file:
        for instance in instances:
            record = serialize(instance, tokenizer, LENGTH, PREDICTIONS)
            file.write(struct.pack("<q", len(record)) + record)
    return (time.process_time() - started) / len(instances)


def _command(*words: object) -> None:
    subprocess.run([sys.executable, ROOT / "prepare_data.py", *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run(main)
