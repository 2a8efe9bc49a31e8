"""The order of a run, in whole small runs: signals, resume, directories, damaged checkpoints."""

import os
import signal

import numpy as np
import pytest

from modeling import BertForPreTraining
from tests.training.whole_runs import start, train, training_losses, wait_for_rows
from training import evaluator
from training.journal import read_rows
from utils.checkpoints import checkpoints, newest_checkpoint
from utils.errors import UserError


@pytest.mark.parametrize(("every", "stopped_at"), [(4, 4), (0, 9)])
def test_a_signal_during_evaluation_saves_a_checkpoint_and_resume_evaluates(
    every, stopped_at, records_dir, tmp_path, monkeypatch
):
    words = f"--max_steps 9 --val_fraction 0.3 --val-batch-size 3 --eval_every_n_iters {every}".split()
    train("eager", records_dir, tmp_path / "whole", *words)
    batches = evaluator.evaluation_batches

    def interrupted(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs)):
            yield batch
            assert number == 0  # no second one is judged
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(evaluator, "evaluation_batches", interrupted)
        train("eager", records_dir, tmp_path / "stopped", *words)
    assert left.value.code == 128 + signal.SIGTERM
    assert newest_checkpoint(tmp_path / "stopped").name == f"checkpoint-{stopped_at}"
    train("eager", records_dir, tmp_path / "stopped", *words, "--resume")
    kept = ("step", "total_loss", "eval_mlm_loss")
    rows = [
        [{name: row[name] for name in kept if name in row} for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "stopped")
    ]
    assert rows[0] == rows[1]
    evaluations = [row["step"] for row in rows[0] if "eval_mlm_loss" in row]
    assert evaluations == ([4, 8, 9] if every else [9])


@pytest.mark.parametrize("script", ["run_eager_pretraining.py", "run_pretraining.py"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(script, records_dir, tmp_path):
    mode = "eager" if "eager" in script else "graph"
    words = ["--max_steps", "60", "--model_save_every_n_iter", "7"]
    whole = train(mode, records_dir, tmp_path / "whole", *words)
    process = start(script, records_dir, tmp_path / "killed", *words)
    wait_for_rows(process, tmp_path / "killed", 17)
    process.kill()
    process.communicate()
    assert newest_checkpoint(tmp_path / "killed").name != "checkpoint-60"
    assert train(mode, records_dir, tmp_path / "killed", *words, "--resume") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_ends_the_run(number, records_dir, tmp_path):
    out = tmp_path / "run"
    process = start("run_eager_pretraining.py", records_dir, out, "--max_steps", "100000")
    wait_for_rows(process, out, 5)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} after" in output.splitlines()[-1]
    assert "Traceback" not in errors
    (saved,) = checkpoints(out)
    assert max(training_losses(out)) + 1 == int(saved.name.split("-")[1])


def test_old_checkpoints_are_removed(records_dir, tmp_path):
    words = ["--max_steps", "9", "--model_save_every_n_iter", "2"]
    train("eager", records_dir, tmp_path / "run", *words, "--keep_last", "2")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-8", "checkpoint-9"]


def test_a_run_starts_from_the_named_weights(records_dir, tmp_path):
    train("eager", records_dir, tmp_path / "first", "--max_steps", "5")
    words = ["--max_steps", "1", "--lr", "1e-9", "--init_checkpoint", str(tmp_path / "first")]
    train("graph", records_dir, tmp_path / "second", *words)
    first = BertForPreTraining.from_pretrained(tmp_path / "first/checkpoint-5").to_arrays()
    second = BertForPreTraining.from_pretrained(tmp_path / "second/checkpoint-1").to_arrays()
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, atol=1e-7)


def test_a_used_directory_is_refused_and_can_be_overwritten(records_dir, tmp_path):
    out = tmp_path / "run"
    train("eager", records_dir, out, "--max_steps", "2")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--resume"):
        train("eager", records_dir, out, "--max_steps", "2")
    train("eager", records_dir, out, "--max_steps", "3", "--overwrite_output_dir")
    assert [path.name for path in checkpoints(out)] == ["checkpoint-3"]
    assert (out / "notes.txt").read_text() == "mine"


def test_resume_without_a_checkpoint_starts_a_run(records_dir, tmp_path):
    assert list(train("eager", records_dir, tmp_path / "run", "--max_steps", "2", "--resume")) == [0, 1]


def test_resume_of_a_finished_run_changes_nothing(records_dir, tmp_path):
    words = ["--max_steps", "3", "--val_fraction", "0.3"]
    train("eager", records_dir, tmp_path / "run", *words)
    before = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(tmp_path / "run/metrics.jsonl")]
    train("eager", records_dir, tmp_path / "run", *words, "--resume")
    assert any("eval_mlm_loss" in row for row in before)
    after = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(tmp_path / "run/metrics.jsonl")]
    assert after == before


def test_a_damaged_checkpoint_is_named(records_dir, tmp_path):
    train("eager", records_dir, tmp_path / "run", "--max_steps", "2")
    weights = tmp_path / "run/checkpoint-2/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "4", "--resume")


def test_a_nan_loss_ends_the_run(records_dir, tmp_path):
    with pytest.raises(UserError, match="total_loss or the gradient norm is NaN or infinite at step 1"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30", "--lr", "1e38", "--warmup_steps", "0")
