"""Hostile inputs: pickles that run programs, archives that explode, names that climb out, terminal and HTML escapes."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.report import Attack
from benchmarks.faults.samples import run

_MEMORY = 3 << 20  # kilobytes of resident memory that a command may reach


def attack_with_hostile_files(samples: Path, work: Path) -> Attack:
    """Gives every hostile file to the commands that would read it."""
    attack = Attack("hostile files")
    for number, hostile in enumerate(
        (_pickles, _headers, _index_paths, _checkpoint_names, _record_sets, _archives, _terminal_escapes, _html)
    ):
        directory = work / f"hostile-{number}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        hostile(attack, samples, directory)
        shutil.rmtree(directory, ignore_errors=True)
    return attack


class _RunsProgram:
    """Its pickle runs a program when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def _convert(attack: Attack, what: str, source: Path, *more: str) -> str:
    """Converts a hostile checkpoint, which must be refused; returns what the command printed."""
    ended = _run("convert_checkpoint.py", "--input", source, "--output", source.parent / "converted", *more)
    refused = ended.returncode == 2 and "Traceback" not in ended.stderr
    attack.add("clear error" if refused else "fault", f"{what}: exit code {ended.returncode}: {ended.stderr[-500:]}")
    return ended.stdout + ended.stderr


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    ended = run(*words, timeout=180)
    if resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > _MEMORY:
        ended.returncode, ended.stderr = -1, f"more than {_MEMORY >> 20} GB of memory"
    return ended


def _model(samples: Path, directory: Path) -> Path:
    """A copy of a model directory without its weights."""
    model = directory / "model"
    shutil.copytree(samples / "hf", model)
    (model / "model.safetensors").unlink()
    return model


def _pickles(attack: Attack, samples: Path, directory: Path) -> None:
    mark = directory / "ran"
    model = _model(samples, directory)
    content = pickle.dumps({"bert.embeddings.word_embeddings.weight": _RunsProgram(f"touch {mark}")})
    (model / "pytorch_model.bin").write_bytes(content)
    _convert(attack, "a pickle that runs a program", model)
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    _convert(attack, "a pickle in an archive that runs a program", model)
    saved = directory / "oneflow"
    saved.mkdir()
    (saved / "pickled_data").write_bytes(content)
    _convert(attack, "a saved module that runs a program", saved)
    attack.check(not mark.exists(), "a program in a pickle was run")


def _headers(attack: Attack, samples: Path, directory: Path) -> None:
    model = _model(samples, directory)
    huge = {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    for length, header in ((1 << 63, b"{}"), (1 << 20, b"{}"), (0, b""), (None, json.dumps(huge).encode())):
        size = len(header) if length is None else length
        (model / "model.safetensors").write_bytes(struct.pack("<Q", size) + header)
        _convert(attack, f"a header of {size} bytes", model)


def _index_paths(attack: Attack, samples: Path, directory: Path) -> None:
    model = _model(samples, directory)
    secret = directory / "secret.safetensors"
    shutil.copy(samples / "hf/model.safetensors", secret)
    for path in ("../secret.safetensors", str(secret), "x/../../secret.safetensors"):
        index = {"weight_map": {"bert.embeddings.word_embeddings.weight": path}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        _convert(attack, f"an index that names {path}", model)


def _checkpoint_names(attack: Attack, samples: Path, directory: Path) -> None:
    shutil.copytree(samples / "run", directory / "out/run")
    outside = directory / "checkpoint-9"
    shutil.copytree(samples / "run/checkpoint-3", outside)
    for name in ("../../checkpoint-9", str(outside), "checkpoint-9/../checkpoint-3", "\x1b[2J"):
        (directory / "out/run/latest").write_text(name)
        ended = _run(
            "run_infer.py", "--model_path", directory / "out/run", "--text", "anna [MASK] .", "--device", "cpu"
        )
        attack.check(
            ended.returncode == 0 and "checkpoint-9" not in ended.stderr, f"latest names {name!r}: {ended.stderr}"
        )


def _record_sets(attack: Attack, samples: Path, directory: Path) -> None:
    records = directory / "records"
    for change in ({"file": "../secret"}, {"file": "/etc/passwd"}, {"records": 1 << 60}, {"bytes": 1 << 60}):
        shutil.rmtree(records, ignore_errors=True)
        shutil.copytree(samples / "ofrecord", records)
        content = json.loads((records / "dataset.json").read_text())
        content["shards"][0] |= change
        (records / "dataset.json").write_text(json.dumps(content))
        ended = _run("prepare_data.py", "verify", "--input_dir", records)
        good = ended.returncode == 2 and "Traceback" not in ended.stderr
        attack.add("clear error" if good else "fault", f"dataset.json with {change}: {ended.stderr[-500:]}")


def _archives(attack: Attack, samples: Path, directory: Path) -> None:
    bomb = directory / "bomb.txt.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"a" * (1 << 20))  # 64 MB without a line's end
    cut = directory / "cut.txt.gz"
    cut.write_bytes(bomb.read_bytes()[:-9])
    for path in (bomb, cut):
        ended = _run("prepare_data.py", "clean", "--input_file", path, "--output_dir", directory / path.name[:3])
        good = ended.returncode in (0, 2) and "Traceback" not in ended.stderr
        attack.check(good, f"{path.name}: exit code {ended.returncode}: {ended.stderr[-500:]}")


def _terminal_escapes(attack: Attack, samples: Path, directory: Path) -> None:
    model = _model(samples, directory)
    name = "\x1b]0;owned\x07\x1b[2J.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    printed = _convert(attack, "a tensor whose name contains terminal escapes", model)
    attack.check("\x1b" not in printed, "a tensor's name reached the terminal with its escapes")


def _html(attack: Attack, samples: Path, directory: Path) -> None:
    script = "<script>alert(1)</script>"
    text, vocab, records = directory / "text.txt", directory / "vocab.txt", directory / "records"
    text.write_text(f"{script} <img src=x onerror=alert(2)> .\nanna lives in paris .\n\n" * 60)
    _run("prepare_data.py", "vocab", "--input_file", text, "--vocab_file", vocab, "--vocab_size", "200")
    lengths = ("--max_seq_length", "48", "--max_predictions_per_seq", "4", "--num_shards", "1", "--dupe_factor", "1")
    prepared = _run(
        *("prepare_data.py", "pretraining", "--input_file", text, "--vocab_file", vocab, "--output_dir", records),
        *lengths,
    )
    _run("prepare_data.py", "inspect", "--input_dir", records)
    page = records / "report.html"
    found = page.read_text() if page.exists() else ""
    attack.check(bool(found), f"no page was written: {prepared.stderr[-500:]}")
    attack.check("<script>alert" not in found and "<img src=x" not in found, "a text's script is part of the page")
