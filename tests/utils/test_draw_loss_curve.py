"""Curves are read from runs and logs, compared and drawn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from utils.draw_loss_curve import largest_difference, read_curves
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def write_run(directory, losses):
    directory.mkdir()
    rows = [{"step": step, "total_loss": loss} for step, loss in losses.items()]
    rows.append({"step": 3, "eval_total_loss": 4.5})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_curves_are_read_from_a_run_and_from_a_log(tmp_path):
    run = write_run(tmp_path / "a", {0: 9.0, 1: 8.0})
    assert read_curves(run) == ({0: 9.0, 1: 8.0}, {3: 4.5})
    log = tmp_path / "old.log"
    log.write_text("noise\nstep: 19, total_loss: 7.649, mlm_loss: 6.9, epoch: 0 1.5\n")
    assert read_curves(log)[0] == {19: 7.649}


def test_the_largest_difference_is_relative_and_over_common_steps():
    assert largest_difference({0: 10.0, 1: 5.0, 2: 1.0}, {0: 10.5, 1: 4.0, 7: 1.0}) == (pytest.approx(0.2), 1)
    assert largest_difference({0: 1.0}, {1: 1.0}) is None


def test_the_command_draws_and_prints(tmp_path):
    runs = [write_run(tmp_path / "a", {0: 9.0, 1: 8.0}), write_run(tmp_path / "b", {0: 9.0, 1: 8.4})]
    command = [sys.executable, ROOT / "utils/draw_loss_curve.py", *runs, "--output", tmp_path / "c.png"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "largest relative difference from a 5.00e-02, at step 1" in result.stdout
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_without_losses_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_curves(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no training loss"):
        read_curves(empty)
