"""What the commands of other BERT systems ask of a pretraining run, in whole small runs."""

import json

import pytest

from configs.cli import parse
from configs.pretraining import EagerPretrainingConfig, PretrainingConfig
from data.ofrecord import open_records
from tasks.pretraining import pretrain
from tasks.pretraining_records import PretrainingRecords
from training.journal import read_rows
from utils.checkpoints import checkpoints, model_directory
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--train-batch-size 4 --num_threads 1"
).split()


def train(mode, data, *words):
    kind = EagerPretrainingConfig if mode == "eager" else PretrainingConfig
    pretrain(parse(kind, [*SMALL, "--ofrecord_path", str(data), *map(str, words)]), mode)


def rows_of(directory):
    return [row for row in read_rows(directory / "metrics.jsonl") if "total_loss" in row]


def test_both_commands_run_in_one_folder_with_default_directories(shared_records_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("eager", shared_records_dir, "--max_steps", 2)
    train("graph", shared_records_dir, "--max_steps", 2)
    assert model_directory("output").name == model_directory("output_eager").name == "checkpoint-2"
    assert [row["step"] for row in rows_of(tmp_path / "output")] == [0, 1]  # the first and the last


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_accuracy_of_training_and_checkpoints_at_chosen_steps(mode, shared_records_dir, tmp_path):
    out = tmp_path / "out"
    words = "--max_steps 5 --train_accuracy_every_n_iters 3 --save_at_steps 0 2 --save_steps 1 --keep_last 1".split()
    train(mode, shared_records_dir, "--output_dir", out, *words)
    assert [(row["step"], "mlm_accuracy" in row) for row in rows_of(out)] == [(0, False), (2, True), (4, False)]
    assert all(0 <= row.get("mlm_accuracy", 0) <= 1 and 0 < row["model_flops_share"] < 1 for row in rows_of(out))
    assert [path.name for path in checkpoints(out)] == ["checkpoint-0", "checkpoint-2", "checkpoint-5"]
    # Measuring accuracy and saving change nothing.
    train(mode, shared_records_dir, "--output_dir", tmp_path / "plain", "--max_steps", 5)
    assert rows_of(tmp_path / "plain")[-1]["total_loss"] == rows_of(out)[-1]["total_loss"]
    # The checkpoint before the first step starts the same run.
    start = ("--load_from", "checkpoint", "--checkpoint_path", out / "checkpoint-0", "--max_steps", 5)
    train(mode, shared_records_dir, "--output_dir", tmp_path / "again", *start)
    assert rows_of(tmp_path / "again")[-1]["total_loss"] == rows_of(out)[-1]["total_loss"]


def test_figures_of_sentence_order_are_called_sop(records_dir, tmp_path):
    settings = json.loads((records_dir / "dataset.json").read_text())
    (records_dir / "dataset.json").write_text(json.dumps({**settings, "objective": "sop"}))
    train("eager", records_dir, "--output_dir", tmp_path / "out", "--max_steps", 1, "--val_fraction", 0.3)
    row, evaluation = read_rows(tmp_path / "out/metrics.jsonl")
    assert {"sop_loss", "pred_acc"} <= row.keys() and {"eval_sop_loss", "eval_sop_accuracy"} <= evaluation.keys()
    assert not any("nsp" in name for name in (*row, *evaluation))
    assert "eval_sop_accuracy" in (tmp_path / "out/eval_results.txt").read_text()


def test_checkpoint_n_of_a_named_run(shared_records_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("graph", shared_records_dir, "--run_name", "first", "--max_steps", 2, "--save_steps", 1)
    assert model_directory("output/first-step1") == model_directory("output/first/checkpoint-1")
    start = "--load_from checkpoint --checkpoint_path output/first-step1 --run_name second --max_steps 2".split()
    train("graph", shared_records_dir, *start)
    assert [row["step"] for row in rows_of(tmp_path / "output/second")] == [1]
    (tmp_path / "output/first").rename(tmp_path / "output/renamed")  # found by its run.json
    assert model_directory("output/first-step2").parts[-2:] == ("renamed", "checkpoint-2")
    assert model_directory("output/first-step3").name == "first-step3"


def test_evaluation_without_data_is_said(shared_records_dir, tmp_path, capsys):
    train("eager", shared_records_dir, "--output_dir", tmp_path / "asked", "--max_steps", 1, "--do_eval")
    assert "--do_eval has no effect without evaluation data: pass --val_ofrecord_path" in capsys.readouterr().err
    train("eager", shared_records_dir, "--output_dir", tmp_path / "default", "--max_steps", 1)
    assert "--do_eval" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fraction", "held_out"),
    [
        (0.25, 12),  # of 47 records in shards of 19, 17 and 11
        (0.3, 11),  # the last shard is 23 %, which is close enough
        (0.01, 1),
        (0.1, 5),
        (0.98, 46),
    ],
)
def test_a_fraction_holds_out_whole_shards_if_they_fit_or_else_records(fraction, held_out, shared_records_dir):
    data = parse(PretrainingConfig, f"--ofrecord_path {shared_records_dir} --val_fraction {fraction}".split()).data
    records = PretrainingRecords.open(data)
    assert (len(records.training), len(records.evaluation)) == (47 - held_out, held_out)
    assert records.evaluation.first == 47 - held_out == len(open_records(shared_records_dir)) - held_out


def test_a_fraction_leaves_records_to_train_on(shared_records_dir):
    data = parse(PretrainingConfig, f"--ofrecord_path {shared_records_dir} --val_fraction 0.995".split()).data
    with pytest.raises(UserError, match=r"--val_fraction 0.995 of 47 records leaves none"):
        PretrainingRecords.open(data)
