"""Small valid inputs of every format, to be damaged, and the text that they are made of."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = (
    "--num_hidden_layers 2 --num_attention_heads 3 --hidden_size_per_head 5 --device cpu --train_batch_size 4".split()
)
WORDS = "anna ben lives works in at near paris rome cairo lima and is was not home the a old new big".split()


def run(*words: str | Path, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs a command of this project to its end; the first word is its script."""
    command = [sys.executable, str(ROOT / words[0]), *map(str, words[1:])]
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": timeout, "check": False} | options
    return subprocess.run(command, env=environment(), **settings)  # type: ignore[call-overload,no-any-return]


def environment() -> dict[str, str]:
    """The environment of the commands."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def must(*words: str | Path) -> None:
    """Runs a command that must succeed."""
    ended = run(*words)
    if ended.returncode:
        raise RuntimeError(f"{words[0]} failed: {ended.stderr[-1000:]}")


def write_text(path: Path, documents: int, seed: int = 0) -> None:
    """Writes text: a sentence per line, a blank line between documents."""
    rng = random.Random(seed)
    sentences = (
        "\n".join(" ".join(rng.choices(WORDS, k=rng.randrange(3, 12))) + " ." for _ in range(rng.randrange(2, 9)))
        for _ in range(documents)
    )
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")


def squad_file(path: Path, questions: int) -> None:
    """Writes a SQuAD file."""
    rng = random.Random(1)
    rows = []
    for number in range(questions):
        words = rng.choices(WORDS, k=20)
        answer = words[7]
        context = " ".join(words)
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        qas = [{"id": str(number), "question": f"where is {words[0]} ?", "answers": answers}]
        rows.append({"title": "t", "paragraphs": [{"context": context, "qas": qas}]})
    path.write_text(json.dumps({"version": "1.1", "data": rows}), encoding="utf-8")


def make_samples(directory: Path) -> Path:
    """Makes all samples, once; each sub-directory contains one format."""
    if (directory / "complete").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    text, vocab = directory / "text.txt", directory / "vocab.txt"
    write_text(text, 40)
    must(
        "prepare_data.py",
        "vocab",
        "--input_file",
        text,
        "--vocab_file",
        vocab,
        "--vocab_size",
        "150",
        "--num_workers",
        "1",
    )
    for name, words in SETS.items():
        must(
            *("prepare_data.py", "pretraining", "--input_file", text, "--vocab_file", vocab, "--num_shards", "2"),
            *("--max_seq_length", "24", "--max_predictions_per_seq", "4", "--dupe_factor", "1", "--num_workers", "1"),
            *("--output_dir", directory / name, *words),
        )
    (directory / "squad").mkdir()
    squad_file(directory / "squad/train.json", 9)
    shutil.copy(vocab, directory / "squad")
    _glue(directory / "glue/RTE")
    records = ("--ofrecord_path", str(directory / "ofrecord"), "--output_dir", str(directory / "run"))
    must("run_eager_pretraining.py", *MODEL, *records, "--max_steps", "3", "--model_save_every_n_iter", "2")
    model = directory / "run/checkpoint-3"
    for target in ("hf", "lazy", "oneflow"):
        must("convert_checkpoint.py", "--input", model, "--output", directory / target, "--to", target)
    _numbered_configs(directory / "flags")
    (directory / "complete").touch()
    return directory


SETS: dict[str, Sequence[str]] = {
    "ofrecord": (),
    "jsonl": ("--output_format", "jsonl"),
    "tokens": "--objective none --packing chunks --masking dynamic --output_format tokens".split(),
}


def _glue(directory: Path) -> None:
    directory.mkdir(parents=True)
    rng = random.Random(2)
    for name, count in (("train", 30), ("dev", 8), ("test", 8)):
        lines = ["index\tsentence1\tsentence2" + ("" if name == "test" else "\tlabel")]
        for row in range(count):
            fields = [str(row), *(" ".join(rng.choices(WORDS, k=5)) for _ in range(2))]
            lines.append("\t".join(fields + ([] if name == "test" else [rng.choice(["entailment", "not_entailment"])])))
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbered_configs(directory: Path) -> None:
    directory.mkdir()
    flags = {"lr": 1e-3, "max_steps": 7, "seed": 5, "do_eval": True, "ofrecord_path": ["a", "b"], "output_dir": "x"}
    (directory / "flags.json").write_text(json.dumps(flags, indent=1))
    (directory / "phases.json").write_text(json.dumps([{"max_steps": 7}, {"seq_length": 128, "lr": 1e-4}], indent=1))


def same_files(first: Path, other: Path, names: Sequence[str]) -> bool:
    """Whether two directories hold the same bytes under these names."""
    return all((first / name).read_bytes() == (other / name).read_bytes() for name in names)
