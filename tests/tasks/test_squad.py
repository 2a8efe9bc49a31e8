"""SQuAD from JSON files to scores, with a small model that learns a few questions by heart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs.cli import parse
from configs.squad import SquadConfig
from configs.training import RETIRED
from conversion import read_checkpoint, write_checkpoint
from modeling import BertForPreTraining
from tasks.squad import finetune_squad
from training.journal import read_rows
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(23)]
LENGTHS = ("--max_seq_length", "29", "--max_query_length", "5", "--doc_stride", "9")
SHAPE = ("--num_hidden_layers", "2", "--num_attention_heads", "2", "--hidden_size_per_head", "16")
SHAPE += ("--max_position_embeddings", "31", "--hidden_dropout_prob", "0", "--attention_probs_dropout_prob", "0")


def write_squad(path, count, seed, v2=False):
    """`count` questions, each answered by the word of the context that it names."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for i in range(count):
        words = [str(w) for w in rng.permutation(WORDS)[:17]]
        impossible = v2 and i % 3 == 0
        place = int(rng.integers(len(words)))
        asked = next(w for w in WORDS if w not in words) if impossible else words[place]
        start = len(" ".join([*words[:place], ""]))
        answers = [] if impossible else [{"text": words[place], "answer_start": start}]
        qa = {"id": f"q{i}", "question": f"{asked} {WORDS[i % 23]}?", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [qa | {"is_impossible": impossible} if v2 else qa]})
    version = "v2.0" if v2 else "1.1"
    path.write_text(json.dumps({"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A question file and a vocabulary."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *WORDS]) + "\n")
    return write_squad(tmp_path / "train.json", 13, seed=3), str(vocab)


def finetune(*flags):
    finetune_squad(parse(SquadConfig, ["--with-cuda", "False", *LENGTHS, *flags], retired=RETIRED))


def training_flags(files, output, *more):
    squad, vocab = files
    return ("--do_train", "--train_file", squad, "--vocab_file", vocab, "--output_dir", str(output), *SHAPE, *more)


@pytest.mark.parametrize(("mode", "v2"), [("graph", True), ("eager", False)])
def test_questions_are_memorized(tmp_path, files, mode, v2):
    squad = write_squad(tmp_path / "v2.json", 12, seed=4, v2=True) if v2 else files[0]
    more = ("--do_eval", "--predict_file", squad, "--version_2_with_negative", str(v2), "--mode", mode)
    more += ("--lr", "5e-3", "--max_steps", "110", "--batch_size_per_device", "12", "--eval_batch_size_per_device", "5")
    finetune(*training_flags((squad, files[1]), tmp_path / "out", *more))
    rows = read_rows(tmp_path / "out" / "metrics.jsonl")
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    assert losses[-1] < 0.3 * losses[0]
    scores = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert scores["f1"] > 95
    assert rows[-1]["eval_f1"] == scores["f1"]
    assert ("best_f1_thresh" in scores) is v2
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(predictions) == (12 if v2 else 13)
    assert (tmp_path / "out" / "null_odds.json").exists() is v2
    # The official command reads what was written.
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.squad", squad, str(tmp_path / "out" / "predictions.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["f1"] == scores["f1"]


def test_the_runs_own_checkpoint_is_evaluated(tmp_path, files, capsys):
    finetune(*training_flags(files, tmp_path / "out", "--max_steps", "3"))
    answer = ("--predict_file", files[0])
    finetune("--do_eval", *answer, "--output_dir", str(tmp_path / "out"))  # the run's own newest checkpoint
    first = json.loads((tmp_path / "out" / "nbest_predictions.json").read_text())
    rows = read_rows(tmp_path / "out" / "metrics.jsonl")
    assert rows[-1]["step"] == 3 and "eval_f1" in rows[-1]
    capsys.readouterr()
    finetune("--do_eval", *answer, "--output_dir", str(tmp_path / "out"))
    assert "already complete" in capsys.readouterr().out  # the features are made once
    finetune("--do_eval", *answer, "--output_dir", str(tmp_path / "out"), "--version_2_with_negative")
    scores = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert list(scores) == ["exact_match", "f1"]  # a v1.1 file is scored as one, whatever may be answered
    for mode in ("graph", "eager"):
        start = ("--model_load_dir", str(tmp_path / "out"))
        finetune("--do_predict", *answer, *start, "--mode", mode, "--output_dir", str(tmp_path / mode))
        again = json.loads((tmp_path / mode / "nbest_predictions.json").read_text())
        assert not (tmp_path / mode / "eval_results.json").exists()
        assert [n[0]["text"] for n in again.values()] == [n[0]["text"] for n in first.values()]
        for ours, theirs in zip(again["q1"], first["q1"], strict=True):
            assert ours["start_logit"] == pytest.approx(theirs["start_logit"], abs=1e-5)


def test_answers_do_not_depend_on_padding(tmp_path, files, capsys, less_padding):
    short = ("--max_seq_length", "19", "--mode", "eager")
    more = ("--max_steps", "5", "--padding", less_padding, "--predict_file", files[0])
    finetune(*training_flags(files, tmp_path / "out", *more), *short)
    lengths = {"longest": "16 or 19", "none": "up to 19"}[less_padding]  # windows are of two lengths
    assert f"records of {lengths} tokens" in capsys.readouterr().out
    found = {}
    for padding in ("max_length", less_padding):
        output = ("--output_dir", str(tmp_path / padding), "--eval_batch_size_per_device", "5", *short)
        start = ("--model_load_dir", str(tmp_path / "out"), "--predict_file", files[0], "--padding", padding)
        finetune("--do_eval", *start, *output)
        found[padding] = json.loads((tmp_path / padding / "nbest_predictions.json").read_text())
    scores = [json.loads((tmp_path / each / "eval_results.json").read_text()) for each in found]
    assert scores[0] == scores[1]
    for question, spans in found[less_padding].items():
        assert spans[0]["text"] == found["max_length"][question][0]["text"]
        for name in ("start_logit", "end_logit"):
            assert spans[0][name] == pytest.approx(found["max_length"][question][0][name], abs=1e-5)


def test_prepared_features_give_the_same_losses(tmp_path, files):
    from configs.squad import FeatureFlags, SquadDataConfig
    from data.preparation.squad import prepare

    squad, vocab = files
    settings = FeatureFlags(vocab, max_seq_length=29, max_query_length=5, doc_stride=9)
    for training in (True, False):
        prepare(SquadDataConfig(squad, str(tmp_path / f"{training}"), training, settings, num_shards=2))
        (tmp_path / f"{training}" / "dataset.json").unlink()  # as in the published sets
    finetune(*training_flags(files, tmp_path / "a", "--max_steps", "4", "--loss_print_every_n_iter", "1"))
    data = ("--train_data_dir", str(tmp_path / "True"), "--train_data_part_num", "2", "--train_example_num", "26")
    data += ("--eval_data_dir", str(tmp_path / "False"), "--predict_file", squad, "--do_eval")
    more = ("--max_steps", "4", "--loss_print_every_n_iter", "1", "--vocab_file", vocab)
    finetune("--do_train", *data, *more, *SHAPE, "--output_dir", str(tmp_path / "b"))
    losses = [
        [row["total_loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "total_loss" in row]
        for name in "ab"
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    other = write_squad(tmp_path / "other.json", 13, seed=8)
    data = ("--do_eval", "--predict_file", other, "--eval_data_dir", str(tmp_path / "False"))
    with pytest.raises(UserError, match="feature 0 differs from"):
        finetune(*data, "--model_load_dir", str(tmp_path / "b"), "--output_dir", str(tmp_path / "c"))


@pytest.mark.parametrize("form", ["hf", "lazy"])
def test_fine_tuning_starts_from_pretrained_weights(tmp_path, files, form, capsys):
    from configs.model import BertConfig

    shape = BertConfig(29, 32, 2, 2, 128, max_position_embeddings=31)
    model = BertForPreTraining(shape, seed=9)
    model.save_pretrained(tmp_path / "pretrained", tokenizer={"vocab.txt": Path(files[1]).read_bytes()})
    write_checkpoint(read_checkpoint(tmp_path / "pretrained"), tmp_path / form, form)
    named = {"hf": ("--load_from", "checkpoint", "--checkpoint_path"), "lazy": ("--model_load_dir",)}
    start = (*named[form], str(tmp_path / form), "--max_steps", "1", "--lr", "0")
    finetune(*training_flags(files, tmp_path / "out", *start))
    assert "it is initialized randomly" in capsys.readouterr().err
    state = read_checkpoint(tmp_path / "out").state
    before = model.to_arrays()
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.weight"):
        np.testing.assert_array_equal(state[name], before[name])
    with pytest.raises(UserError, match="has no qa_outputs, so it was not trained for this task"):
        finetune(
            "--do_eval", "--predict_file", files[0], *start, "--vocab_file", files[1], "--output_dir", str(tmp_path)
        )


def test_a_killed_run_resumes_exactly(tmp_path, files):
    command = [sys.executable, "run_squad.py", "--with-cuda", "False", *LENGTHS]
    steps = ("--max_steps", "40", "--model_save_every_n_iter", "7", "--loss_print_every_n_iter", "1")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    steps += ("--batch_size_per_device", "5")
    killed = [*command, *training_flags(files, tmp_path / "killed", *steps)]
    finetune(*training_flags(files, tmp_path / "whole", *steps))
    process = subprocess.Popen(killed, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 17):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [*killed, "--resume"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "at step" in done.stdout and "features: complete" not in done.stdout
    whole, killed = (
        {row["step"]: row["total_loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "total_loss" in row}
        for name in ("whole", "killed")
    )
    assert whole == killed and len(whole) == 40


def test_flags_of_the_earlier_script(tmp_path):
    typed = (
        "--model=SQuAD --do_train=True --do_eval=True --gpu_num_per_node=1 --learning_rate=3e-5 "
        "--batch_size_per_device=16 --eval_batch_size_per_device=16 --num_epoch=3 --use_fp16 "
        "--version_2_with_negative=False --loss_print_every_n_iter=20 --do_lower_case=True --seq_length=384 "
        "--num_hidden_layers=12 --num_attention_heads=12 --max_position_embeddings=512 --type_vocab_size=2 "
        "--vocab_size=30522 --attention_probs_dropout_prob=0.1 --hidden_dropout_prob=0.1 --hidden_size_per_head=64 "
        "--train_data_dir=t --train_example_num=88614 --eval_data_dir=e --eval_example_num=10833 --log_dir=./log "
        "--model_load_dir=m --save_last_snapshot=True --model_save_dir=./squad_snapshots --vocab_file=v "
        "--predict_file=p --output_dir=./squad_output --device cpu --verbose_logging False --n_best_size 20"
    )
    config = parse(SquadConfig, typed.split(), retired=RETIRED)
    assert config.run.epochs == 3 and config.optimizer.lr == 3e-5 and config.features.max_seq_length == 384
    assert config.batch.train_rows(1) == 16 and config.run.checkpoint_path == "./squad_snapshots"
    defaults = parse(SquadConfig, ["--do_predict", "--predict_file", "p"])
    assert (defaults.batch.train_rows(1), defaults.batch.val_rows(1), defaults.run.epochs) == (32, 64, 3)
    assert defaults.run.output_dir == "squad_output" and defaults.mode == "graph" and not defaults.run.do_train


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "nothing to do"),
        (("--do_train",), "--train_file"),
        (("--do_eval",), "--predict_file"),
        (("--do_predict", "--predict_file", "p", "--n_best_size", "0"), "--n_best_size"),
    ],
)
def test_missing_flags_are_named(flags, words):
    with pytest.raises(UserError, match=words):
        parse(SquadConfig, flags)


def test_contradictions_are_errors(tmp_path, files, capsys):
    squad, vocab = files
    finetune(*training_flags(files, tmp_path / "out", "--max_steps", "1"))
    start = ("--do_eval", "--predict_file", squad, "--output_dir", str(tmp_path / "out"))
    other = tmp_path / "other.txt"
    other.write_text(Path(vocab).read_text().replace("w1\nw2", "w2\nw1"))
    with pytest.raises(UserError, match="is not the model's"):
        finetune(*start, "--vocab_file", str(other))
    with pytest.raises(UserError, match="31 positions"):
        finetune(*start, "--max_seq_length", "32")
    with pytest.raises(UserError, match="not 28: pass --max_seq_length 29"):
        eval_dir = next((tmp_path / "out" / "features").glob("train-*"))
        finetune(*start, "--eval_data_dir", str(eval_dir), "--max_seq_length", "28")
    with pytest.raises(UserError, match="these are not evaluation features"):
        finetune(*start, "--eval_data_dir", str(eval_dir))
    tokenizer = tmp_path / "out" / "checkpoint-1" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({"do_lower_case": False}))
    finetune(*start, "--do_lower_case", "True")
    assert "--do_lower_case True contradicts" in capsys.readouterr().err
    with pytest.raises(UserError, match="no checkpoint in"):
        finetune(*start[:-1], str(tmp_path / "nothing"))
    gold = json.loads(Path(squad).read_text())
    gold["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    Path(squad).write_text(json.dumps(gold))
    with pytest.raises(UserError, match="has no answers to compare with"):
        finetune(*start)
    gold["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    Path(squad).write_text(json.dumps(gold))
    with pytest.raises(UserError, match=r"is a SQuAD 2\.0 file: pass --version_2_with_negative True"):
        finetune(*start)


def test_a_teacher_of_the_same_weights_has_nothing_to_teach(tmp_path, files):
    finetune(*training_flags(files, tmp_path / "teacher", "--max_steps", "2", "--mode", "eager"))
    words = ("--max_steps", "1", "--mode", "eager", "--init_checkpoint", str(tmp_path / "teacher"), "--teacher")
    words += (str(tmp_path / "teacher"), "--distill_hidden_weight", "1")
    finetune(*training_flags(files, tmp_path / "student", *words))
    row = read_rows(tmp_path / "student/metrics.jsonl")[0]
    assert row["distill_loss"] < 1e-6 and row["distill_hidden_loss"] < 1e-6
    assert row["total_loss"] == pytest.approx(row["label_loss"] / 2, rel=1e-5)
