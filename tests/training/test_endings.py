"""What ends a run, or must not: a closed output, another run, a deleted directory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.whole_runs import SMALL, start, training_losses, wait_for_rows
from utils.checkpoints import checkpoints, newest_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = ("--max_steps", "100000")


@pytest.mark.parametrize("script", ["run_eager_pretraining.py", "run_pretraining.py"])
def test_a_run_whose_output_is_closed_saves_a_checkpoint(script, records_dir, tmp_path):
    process = start(script, records_dir, tmp_path / "run", *ENDLESS)
    for _ in range(3):  # as `head -3` reads
        process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 141 and "Traceback" not in errors
    assert "the output pipe was closed" in errors
    (saved,) = checkpoints(tmp_path / "run")
    assert max(training_losses(tmp_path / "run"), default=-1) + 1 == int(saved.name.split("-")[1])


def test_a_run_without_standard_streams_trains(records_dir, tmp_path):
    words = [*SMALL, "--ofrecord_path", str(records_dir), "--output_dir", str(tmp_path / "run"), "--max_steps", "3"]
    command = [
        "sh",
        "-c",
        'exec "$0" "$@" <&- >&- 2>&-',
        sys.executable,
        str(ROOT / "run_eager_pretraining.py"),
        *words,
    ]
    assert subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == 0
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-3" and len(training_losses(tmp_path / "run")) == 3


@pytest.fixture
def live_run(records_dir, tmp_path):
    """A run that has made some steps, and goes on."""
    with (tmp_path / "output").open("w") as output:
        process = start("run_eager_pretraining.py", records_dir, tmp_path / "run", *ENDLESS, stdout=output)
    wait_for_rows(process, tmp_path / "run", 2)
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_the_first_continues(live_run, records_dir, tmp_path):
    for words in ((), ("--resume",), ("--overwrite_output_dir",)):
        second = start("run_eager_pretraining.py", records_dir, tmp_path / "run", "--max_steps", "5", *words)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 2 and "is in use by another run: wait until it ends" in errors
    rows = len(training_losses(tmp_path / "run"))
    wait_for_rows(live_run, tmp_path / "run", rows + 2)


def test_a_deleted_output_directory_ends_the_run_and_is_not_made_again(live_run, records_dir, tmp_path):
    shutil.rmtree(tmp_path / "run")
    errors = live_run.stderr.read()
    assert live_run.wait(timeout=60) == 2 and "Traceback" not in errors
    assert "run was deleted or replaced while this run was writing to it" in errors
    assert not (tmp_path / "run").exists()
