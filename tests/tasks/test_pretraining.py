"""Whole runs through the command's own functions: the log, resume after a kill, signals, mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from modeling import BertForPreTraining
from tasks.pretraining import pretrain
from training import evaluator
from training.journal import read_rows
from utils.checkpoints import checkpoints, newest_checkpoint
from utils.errors import UserError

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


def start(script, records_dir, output_dir, *words):
    """The command in a process of its own."""
    flags = [*SMALL, "--ofrecord_path", str(records_dir), "--output_dir", str(output_dir), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *flags],
        stdout=subprocess.PIPE,
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


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_run_leaves_what_it_promises(mode, records_dir, tmp_path, capsys):
    out = tmp_path / "run"
    losses = train(mode, records_dir, out, "--epochs", "2", "--val_fraction", "0.3", "--eval_every_n_iters", "10")
    # 36 records in the first two shards, two epochs, 4 rows an update
    assert list(losses) == list(range(18))
    names = {"checkpoint-18", "eval_results.txt", "latest", "metrics.jsonl", "run.json", "tensorboard"}
    assert {path.name for path in out.iterdir()} == names
    assert list((out / "tensorboard").iterdir())
    rows = read_rows(out / "metrics.jsonl")
    evaluations = [row for row in rows if "eval_mlm_loss" in row]
    assert [row["step"] for row in evaluations] == [10, 18]
    assert evaluations[-1]["eval_perplexity"] == pytest.approx(np.exp(evaluations[-1]["eval_mlm_loss"]))
    assert {"lr", "throughput", "tokens_per_second", "model_flops_per_second", "pred_acc"} <= set(rows[0])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step: 0,"))
    number = r"-?\d+\.\d{3}"
    names = ("total_loss", "mlm_loss", "nsp_loss", "pred_acc", "throughput")
    assert re.fullmatch("step: 0, " + ", ".join(f"{n}: {number}" for n in names) + r", epoch: 0 \d+\.\d+", line)
    model_dir = out / "checkpoint-18"
    assert (model_dir / "vocab.txt").read_bytes() == (records_dir / "vocab.txt").read_bytes()
    assert json.loads((model_dir / "config.json").read_text())["hidden_size"] == 15
    BertForPreTraining.from_pretrained(model_dir)


def test_last_update_of_the_last_epoch_takes_what_is_left(records_dir, tmp_path):
    losses = train("eager", records_dir, tmp_path / "run", "--epochs", "1")
    assert len(losses) == 12  # 47 records: eleven updates of 4 and one of 3
    state = json.loads((tmp_path / "run/checkpoint-12/training_state/state.json").read_text())
    assert state["records_taken"] == 47


@pytest.mark.parametrize("script", ["run_eager_pretraining.py", "run_pretraining.py"])
def test_killed_and_resumed_equals_undisturbed(script, records_dir, tmp_path):
    mode = "eager" if "eager" in script else "graph"
    words = ["--max_steps", "60", "--model_save_every_n_iter", "7"]
    whole = train(mode, records_dir, tmp_path / "whole", *words)
    process = start(script, records_dir, tmp_path / "killed", *words)
    wait_for_rows(process, tmp_path / "killed", 17)
    process.kill()
    process.communicate()
    assert newest_checkpoint(tmp_path / "killed").name != "checkpoint-60"
    assert train(mode, records_dir, tmp_path / "killed", *words, "--resume") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_leave(number, records_dir, tmp_path):
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


def test_old_checkpoints_go(records_dir, tmp_path):
    words = ["--max_steps", "9", "--model_save_every_n_iter", "2"]
    train("eager", records_dir, tmp_path / "run", *words, "--keep_last", "2")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-8", "checkpoint-9"]


def test_starting_from_weights_keeps_them(records_dir, tmp_path):
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


def test_resume_without_a_checkpoint_starts(records_dir, tmp_path):
    assert list(train("eager", records_dir, tmp_path / "run", "--max_steps", "2", "--resume")) == [0, 1]


def test_resume_of_a_finished_run_changes_nothing(records_dir, tmp_path):
    words = ["--max_steps", "3", "--val_fraction", "0.3"]
    train("eager", records_dir, tmp_path / "run", *words)
    before = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(tmp_path / "run/metrics.jsonl")]
    train("eager", records_dir, tmp_path / "run", *words, "--resume")
    assert any("eval_mlm_loss" in row for row in before)
    after = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(tmp_path / "run/metrics.jsonl")]
    assert after == before


def shorten(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ofrecord_path", "nowhere"], "nowhere"),
        (["--seq_length", "12"], "--seq_length 12 disagrees"),
        (["--max_predictions_per_seq", "4"], "--max_predictions_per_seq 4 disagrees"),
        (["--max_position_embeddings", "10"], "--max_position_embeddings 10 is less"),
        (["--vocab_size", "30"], "more than the model's 30|--vocab_size 30 is less"),
        (["--vocab_file", "tests/fixtures/huggingface/pretraining/vocab.txt"], "--vocab_file"),
        (["--num_attention_heads", "4", "--model_size", "tiny"], "--num_attention_heads 4|hidden"),
        (["--train_data_part", "7"], "7"),
        (["--val_fraction", "0.99"], "--val_fraction"),
        (["--init_checkpoint", "nowhere"], "nowhere"),
        (["--with-cuda", "True"], "--with-cuda True"),
        (["--train-batch-size", "4", "--train-global-batch-size", "5"], "--train-global-batch-size 5"),
        (["--warmup_steps", "99", "--max_steps", "5"], "--warmup_steps 99"),
    ],
)
def test_mistakes_are_one_sentence(words, message, records_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "tiny" in words:
        words = [*words, "--hidden_size_per_head", "0"]
    with pytest.raises(UserError, match=message):
        train("eager", records_dir, tmp_path / "run", *words)


def test_a_truncated_shard_is_named(records_dir, tmp_path):
    shard = records_dir / "part-00001"
    shorten(shard, shard.stat().st_size - 3)
    with pytest.raises(UserError, match="part-00001"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30")


def test_a_damaged_checkpoint_is_named(records_dir, tmp_path):
    train("eager", records_dir, tmp_path / "run", "--max_steps", "2")
    shorten(tmp_path / "run/checkpoint-2/model.safetensors", 1000)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "4", "--resume")


def test_ids_beyond_the_vocabulary_are_named(records_dir, tmp_path):
    metadata = json.loads((records_dir / "dataset.json").read_text())
    metadata["vocab_size"] = 20
    (records_dir / "dataset.json").write_text(json.dumps(metadata))
    (records_dir / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"part-0000\d: record \d+: (input_ids|masked_lm_ids) holds \d+"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30")


def test_a_loss_that_is_no_number_ends_the_run(records_dir, tmp_path):
    with pytest.raises(UserError, match="total_loss is nan at step"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30", "--lr", "1e38", "--warmup_steps", "0")
