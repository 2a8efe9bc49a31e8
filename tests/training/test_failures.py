"""Jobs that are killed or stopped, and what --resume makes of them."""

import json
import signal
import time

import pytest

from training.journal import read_rows
from utils.run_directory import newest_checkpoint

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
