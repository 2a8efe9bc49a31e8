"""Whole small pretraining runs, for tests of the trainer: in this process or in another."""

import os
import subprocess
import sys
import time
from pathlib import Path

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from configs.training import RunFlags
from tasks.pretraining import pretrain
from training.journal import read_rows
from training.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--num_hidden_layers 2 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 "
    "--loss_print_every_n_iters 1 --train-batch-size 4 --seed 5"
).split()


def train(mode, records_dir, output_dir, *words):
    pretrain(
        parse(
            PretrainingConfig, [*SMALL, "--ofrecord_path", str(records_dir), "--output_dir", str(output_dir), *words]
        ),
        mode,
    )
    return training_losses(output_dir)


def training_losses(output_dir):
    return {row["step"]: row["total_loss"] for row in read_rows(output_dir / "metrics.jsonl") if "total_loss" in row}


def removed_by_overwriting(output_dir):
    """The names that --overwrite_output_dir would remove; UserError if the run wrote a file that is not known."""
    flags = RunFlags(output_dir=str(output_dir), overwrite_output_dir=True)
    return {path.name for path in RunDirectory.of(flags).to_clear(flags)}


def start(script, records_dir, output_dir, *words, stdout=subprocess.PIPE):
    """Starts the command in a new process."""
    flags = [*SMALL, "--ofrecord_path", str(records_dir), "--output_dir", str(output_dir), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *flags],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_rows(process, output_dir, count):
    metrics = output_dir / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no rows")
