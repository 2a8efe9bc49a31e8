"""Pretraining in whole small runs: the log, the files, and the mistakes that a user can make."""

import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from configs.pretraining import PretrainingDataFlags
from modeling import BertForPreTraining
from tasks.masked_lm import MASKED_LM, MaskedLM, MaskedLMWithNextSentence, MaskedLMWithSentenceOrder
from tasks.pretraining import OBJECTIVES, Objective, task_class
from tests.training.whole_runs import ROOT, train
from training.journal import read_rows
from training.terms import Figure, LossTerm
from utils.errors import UserError


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_run_writes_its_files_and_its_log_line(mode, records_dir, tmp_path, capsys):
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


def test_the_last_update_takes_the_remaining_records(records_dir, tmp_path):
    losses = train("eager", records_dir, tmp_path / "run", "--epochs", "1")
    assert len(losses) == 12  # 47 records: eleven updates of 4 and one of 3
    state = json.loads((tmp_path / "run/checkpoint-12/training_state/state.json").read_text())
    assert state["records_taken"] == 47


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
        (["--val_fraction", "0.995"], "--val_fraction"),
        (["--init_checkpoint", "nowhere"], "nowhere"),
        (["--with-cuda", "True"], "--with_cuda True"),
        (["--train-batch-size", "4", "--train-global-batch-size", "5"], "--train-global-batch-size 5"),
        (["--warmup_steps", "99", "--max_steps", "5"], "--warmup_steps 99"),
    ],
)
def test_contradicting_flags_raise_errors_that_name_them(words, message, records_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "tiny" in words:
        words = [*words, "--hidden_size_per_head", "0"]
    with pytest.raises(UserError, match=message):
        train("eager", records_dir, tmp_path / "run", *words)


def test_a_truncated_shard_is_named(records_dir, tmp_path):
    shard = records_dir / "part-00001"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(UserError, match="part-00001"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30")


def test_ids_outside_the_vocabulary_are_named(records_dir, tmp_path):
    metadata = json.loads((records_dir / "dataset.json").read_text())
    metadata["vocab_size"] = 20
    (records_dir / "dataset.json").write_text(json.dumps(metadata))
    (records_dir / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"part-0000\d: record \d+: (input_ids|masked_lm_ids) has the value \d+"):
        train("eager", records_dir, tmp_path / "run", "--max_steps", "30")


def test_a_task_names_its_own_figures_in_the_log_and_the_rows(records_dir, tmp_path, monkeypatch, capsys):
    """A new objective is a class and an entry in the table."""

    @dataclass(frozen=True, kw_only=True)
    class Renamed(MaskedLM):
        objective_terms = (LossTerm(Figure("mlm_loss", "masked_lm_weights", "own_loss", True), MASKED_LM.labels),)

    monkeypatch.setitem(OBJECTIVES, "nsp", Objective(Renamed, ("nsp",)))
    train("eager", records_dir, tmp_path / "run", "--max_steps", "2")
    row, *_ = read_rows(tmp_path / "run/metrics.jsonl")
    assert row["own_loss"] == row["total_loss"] and not {"mlm_loss", "nsp_loss", "pred_acc"} & set(row)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step: 0,"))
    assert re.match(r"step: 0, total_loss: \S+ own_loss: \S+ throughput: ", line)


@pytest.mark.parametrize(
    ("flags", "made_for", "task"),
    [
        ({}, "nsp", MaskedLMWithNextSentence),
        ({"objective": "sop"}, "sop", MaskedLMWithSentenceOrder),
        ({"objective": "none"}, "none", MaskedLM),
        ({"objective": "none", "skip_nsp": True}, "nsp", MaskedLM),
        ({"objective": "none"}, "nsp", "ignore them with --skip_nsp"),
        ({"objective": "nsp"}, "sop", "disagrees with the set, which was made for sop"),
        ({"objective": "nsp"}, "none", "disagrees"),
        ({}, "spans", "'spans', but this version only supports none, nsp, sop"),
    ],
)
def test_the_objective_of_the_flags_must_suit_the_records(flags, made_for, task):
    records = SimpleNamespace(source=SimpleNamespace(name="the set"), objective=made_for)
    if isinstance(task, type):
        assert task_class(PretrainingDataFlags(**flags), records) is task
    else:
        with pytest.raises(UserError, match=task):
            task_class(PretrainingDataFlags(**flags), records)
