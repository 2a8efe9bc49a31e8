"""Probes of checkpoints have correct results, and do not change the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from tasks.pretraining import pretrain
from training.journal import read_rows
from training.probes import cloze_table
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--loss_print_every_n_iters 1 --train-batch-size 4 --max_steps 6 --grad_acc_steps 2"
).split()


def flags(data, output, *words):
    return [*SMALL, "--ofrecord_path", str(data), "--output_dir", str(output), *map(str, words)]


def losses(output):
    rows = read_rows(output / "metrics.jsonl")
    return [(row["step"], row["total_loss"], row["grad_norm"]) for row in rows if "total_loss" in row]


@pytest.fixture
def squad_config(tmp_path):
    """run_squad.py's flags for three questions."""
    context = "w7 w8 w9 w10 w11"
    questions = [
        {"id": word, "question": "w5 w6", "answers": [{"text": word, "answer_start": context.index(word)}]}
        for word in ("w8", "w9", "w11")
    ]
    content = {"version": "1.1", "data": [{"title": "", "paragraphs": [{"context": context, "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(content))
    config = {"train_file": str(tmp_path / "squad.json"), "predict_file": str(tmp_path / "squad.json")}
    config |= {"max_seq_length": 13, "max_query_length": 3, "max_steps": 2, "with_cuda": False, "mode": "eager"}
    (tmp_path / "squad_flags.json").write_text(json.dumps(config))
    return tmp_path / "squad_flags.json"


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_fine_tuning_a_clone_on_squad_does_not_change_the_run(mode, records_dir, squad_config, tmp_path, capfd):
    pretrain(parse(PretrainingConfig, flags(records_dir, tmp_path / "alone")), mode)
    asked = ("--squad_frequency", 4, "--squad_config", squad_config)
    pretrain(parse(PretrainingConfig, flags(records_dir, tmp_path / "asked", *asked)), mode)
    assert losses(tmp_path / "asked") == losses(tmp_path / "alone")
    judged = [row for row in read_rows(tmp_path / "asked/metrics.jsonl") if "eval_squad_f1" in row]
    assert [row["step"] for row in judged] == [4, 6]
    scores = json.loads((tmp_path / "asked/squad/eval_results.json").read_text())
    assert scores == {"exact_match": judged[-1]["eval_squad_exact_match"], "f1": judged[-1]["eval_squad_f1"]}
    assert not list((tmp_path / "asked/squad").glob("checkpoint-*"))
    assert "eval_squad_f1" in capfd.readouterr().out
    weights = [(tmp_path / run / "checkpoint-6/model.safetensors").read_bytes() for run in ("asked", "alone")]
    assert weights[0] == weights[1]


def test_cloze_sentences_are_filled_in_once(records_dir, squad_config, tmp_path, capfd):
    (tmp_path / "clozes").write_text("w5 [MASK] w6\n[MASK] w7 [MASK]\n")
    asked = flags(records_dir, tmp_path / "out", "--cloze_file", tmp_path / "clozes", "--model_save_every_n_iter", 4)
    pretrain(parse(PretrainingConfig, asked), "eager")
    text = (tmp_path / "out/clozes.txt").read_text()
    assert [line for line in text.split("\n") if line.startswith("clozes")] == [
        "clozes after step 4",
        "clozes after step 6",
    ]
    assert "  [MASK] w7 [MASK]  " in text
    assert set(text.split("\n")) <= set(capfd.readouterr().out.split("\n")) | {""}
    pretrain(parse(PretrainingConfig, [*asked, "--resume"]), "eager")  # nothing is left to do
    assert (tmp_path / "out/clozes.txt").read_text() == text


def test_a_probe_that_fails_does_not_end_the_training(records_dir, squad_config, tmp_path, capfd):
    config = json.loads(squad_config.read_text())
    squad_config.write_text(json.dumps(config | {"vocab_file": str(tmp_path / "nowhere.txt")}))
    asked = ("--squad_frequency", 9, "--squad_config", squad_config)
    pretrain(parse(PretrainingConfig, flags(records_dir, tmp_path / "out", *asked)), "eager")
    assert "SQuAD after step 6 failed, training continues: error: " in capfd.readouterr().out
    assert (tmp_path / "out/checkpoint-6").exists()


def test_stopping_while_a_clone_learns(records_dir, squad_config, tmp_path):
    config = json.loads(squad_config.read_text())
    squad_config.write_text(json.dumps(config | {"max_steps": 100_000}))
    asked = ("--squad_frequency", 2, "--squad_config", squad_config)
    process = subprocess.Popen(
        [sys.executable, "run_eager_pretraining.py", *flags(records_dir, tmp_path / "out", *asked)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log, deadline = tmp_path / "out/squad/log.txt", time.monotonic() + 120
    while not (log.exists() and "step: " in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after 2 steps" in output
    assert "stopped by SIGTERM" in log.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--squad_frequency 5", "--squad_config"),
        ("--squad_frequency -1", "--squad_frequency must"),
        ("--squad_frequency 5 --squad_config nowhere.json", "nowhere.json cannot be read"),
        ("--squad_frequency 5 --squad_config SQUAD --max_position_embeddings 12", "max_seq_length 13"),
        ("--cloze_file nowhere.txt", "--cloze_file nowhere.txt cannot be read"),
        ("--cloze_file SQUAD", r"line 1: there is no \[MASK\]"),
    ],
)
def test_impossible_probes_are_errors_before_the_first_step(words, message, records_dir, squad_config, tmp_path):
    given = words.replace("SQUAD", str(squad_config)).split()
    with pytest.raises(UserError, match=message):
        pretrain(parse(PretrainingConfig, flags(records_dir, tmp_path / "out", *given)), "eager")
    assert not (tmp_path / "out").exists()


def test_the_cloze_table_has_a_line_for_each_sentence():
    best = [{"token_str": "paris", "score": 0.414}, {"token_str": "lyon", "score": 0.05}]
    assert cloze_table(["in [MASK].", "[MASK] and [MASK]"], [best, [best[:1], best[1:]]]) == [
        "  in [MASK].         paris 41%  lyon 5%",
        "  [MASK] and [MASK]  paris 41% | lyon 5%",
    ]
