"""Jobs that are killed or stopped, and how --resume continues them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.training.conftest import ROOT
from training.journal import read_rows
from utils.checkpoints import newest_checkpoint

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--train-batch-size 3 --loss_print_every_n_iters 1 --model_save_every_n_iter 4 --keep_last 0"
).split()


def run(mode, records_dir, output_dir, *words):
    return [mode, [*SMALL, "--ofrecord_path", str(records_dir), "--output_dir", str(output_dir), *words]]


def losses(directory):
    return {row["step"]: row["total_loss"] for row in read_rows(directory / "metrics.jsonl")}


def finished(job):
    output, _ = job.communicate(timeout=120)
    return output.strip().splitlines()


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_killed_rank_ends_the_job_and_resume_repeats_every_digit(mode, two_ranks, shared_records_dir, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    job = two_ranks(tmp_path, [["die", [7]], run(mode, shared_records_dir, killed, "--max_steps", "10")])
    lines = finished(job)
    assert job.returncode != 0
    assert lines[-1].startswith("error: rank 1 (pid ")
    assert newest_checkpoint(killed).name == "checkpoint-4"
    resume = run(mode, shared_records_dir, killed, "--max_steps", "10", "--resume")
    job = two_ranks(tmp_path, [resume, run(mode, shared_records_dir, whole, "--max_steps", "10")])
    assert finished(job) and job.returncode == 0
    assert losses(killed) == losses(whole) and len(losses(whole)) == 10


def by_hand(flags, environments):
    """The last line of ranks that are started without a launcher, and their exit codes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = []
    for rank, (words, environment) in enumerate(zip(flags, environments, strict=True)):
        job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(flags), "MASTER_ADDR": "127.0.0.1"}
        job |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1, **environment}
        started.append(
            subprocess.Popen(
                [sys.executable, str(ROOT / "run_eager_pretraining.py"), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **{name: str(value) for name, value in job.items()}},
            )
        )
    said = [process.communicate(timeout=120)[0].strip().split("\n") for process in started]
    return said[0][-1], [process.returncode for process in started]


def test_differing_records_or_kernels_are_errors_before_the_first_step(shared_records_dir, tmp_path):
    (_, words) = run("eager", shared_records_dir, tmp_path / "run", "--max_steps", "3")
    fewer = tmp_path / "fewer"
    shutil.copytree(shared_records_dir, fewer)
    listing = json.loads((fewer / "dataset.json").read_text())
    last = listing["shards"].pop()
    listing["records"] -= last["records"]
    for name in (last["file"], "offsets.u64"):
        (fewer / name).unlink()
    (fewer / "dataset.json").write_text(json.dumps(listing))
    held_out = [[*words, "--val_ofrecord_path", str(path)] for path in (shared_records_dir, fewer)]
    for flags in (held_out, [words, held_out[0]]):
        last, codes = by_hand(flags, [{}, {}])
        assert last.startswith("error: the records to evaluate on differ between hosts") and 0 not in codes
    last, codes = by_hand([words, words], [{}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}])
    assert last.startswith("error: the CPU kernels work on some hosts only") and 0 not in codes
    assert not (tmp_path / "run").exists()


def test_a_stopped_launcher_leaves_a_checkpoint_of_the_last_step(two_ranks, shared_records_dir, tmp_path):
    job = two_ranks(tmp_path, [run("eager", shared_records_dir, tmp_path / "run", "--max_steps", "100000")])
    while not (tmp_path / "run" / "checkpoint-4").exists() and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    lines = finished(job)
    assert job.returncode != 0
    (stopped,) = [line for line in lines if line.startswith("stopped by SIGTERM")]
    checkpoint = newest_checkpoint(tmp_path / "run")
    step = json.loads((checkpoint / "training_state" / "state.json").read_text())["step"]
    assert f"after {step} steps" in stopped
    assert max(losses(tmp_path / "run")) == step - 1
