"""Embeddings and cross-encoders on tasks that can be learnt: figures, resuming, ranks, and files that do not fit."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernels
from configs.cli import parse
from configs.embedding import EmbeddingConfig
from configs.pooling import Pooling
from inference import load
from modeling.pretrained import read_weights
from tasks.embedding import train_embedding
from tests.training.whole_runs import removed_by_overwriting
from training.journal import read_rows
from utils.checkpoints import newest_checkpoint
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOPICS = [f"topic{letter}" for letter in "abcdefghijkl"]
WORDS = [f"word{letter}" for letter in "abcdefghijkl"]


@pytest.fixture
def data(tmp_path):
    """Texts are about the topic that they name among other words; texts of one topic belong together."""
    random = np.random.default_rng(0)

    def text(topic):
        words = [TOPICS[topic], *random.choice(WORDS, 3)]
        return " ".join(random.permutation(words))

    pairs = [(text(topic), text(topic), text((topic + 1) % 12)) for topic in random.integers(0, 12, 48)]
    scored = [(text(one), text(other), 4.0 * (one == other)) for one, other in random.integers(0, 3, (48, 2))]
    tables = {
        "pairs.csv": ["anchor,positive", *(f"{one},{other}" for one, other, _ in pairs)],
        "triples.csv": ["anchor,positive,negative", *(",".join(row) for row in pairs)],
        "scored.tsv": ["a\tb\tscore", *(f"{one}\t{other}\t{score}" for one, other, score in scored)],
        "sentences.txt": [text(topic) for topic in random.integers(0, 12, 24)],
        "corpus.csv": ["_id,text", *(f"d{topic},{text(topic)}" for topic in range(12))],
        "queries.csv": ["_id,text", *(f"q{topic},{text(topic)}" for topic in range(12))],
        "qrels.tsv": ["query-id\tcorpus-id", *(f"q{topic}\td{topic}" for topic in range(12))],
    }
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TOPICS, *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return tmp_path


def flags(data, output, train_file, *more, validation_file=None):
    words = ["--train_file", data / train_file, "--output_dir", output, "--max_seq_length", 9, "--seed", 3]
    words += ["--train_batch_size", 12, "--lr", 1e-2, "--loss_print_every_n_iters", 1]
    words += ["--validation_file", data / validation_file] if validation_file else []
    if "--init_checkpoint" not in more:
        words += ["--vocab_file", data / "vocab.txt", "--num_hidden_layers", 1, "--num_attention_heads", 2]
        words += ["--hidden_size_per_head", 8]
    return [*map(str, words), *map(str, more)]


def train(*arguments, **options):
    return train_embedding(parse(EmbeddingConfig, flags(*arguments, **options)))


def losses(output):
    return {row["step"]: row["total_loss"] for row in read_rows(output / "metrics.jsonl") if "total_loss" in row}


def results(output):
    return json.loads((output / "eval_results.json").read_text())


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_pairs_are_learnt(data, tmp_path, mode, capsys):
    output = tmp_path / "out"
    train(data, output, "pairs.csv", "--epochs", 10, "--mode", mode, "--normalize", validation_file="pairs.csv")
    assert "pairs.csv: 48 rows of anchor, positive" in capsys.readouterr().out
    assert results(output)["recall@10"] > 0.6
    assert Pooling.read(newest_checkpoint(output)) == Pooling("mean", normalize=True, max_seq_length=9)
    answer = load(output, mode="eager").feature_extraction("topica worda")
    assert len(answer) == 16 and np.linalg.norm(answer) == pytest.approx(1, abs=1e-5)
    assert removed_by_overwriting(output) == {path.name for path in output.iterdir()}


def test_a_retrieval_set_is_evaluated(data, tmp_path):
    sets = ["--corpus_file", data / "corpus.csv", "--queries_file", data / "queries.csv"]
    sets += ["--qrels_file", data / "qrels.tsv"]
    train(data, tmp_path / "out", "triples.csv", "--epochs", 15, "--mode", "eager", "--symmetric", *sets)
    found = results(tmp_path / "out")
    assert found["mrr@10"] > 0.8 and found["score"] == found["ndcg@10"]
    before = found
    words = ("--do_train", "False", "--mode", "eager", "--init_checkpoint", tmp_path / "out", *sets)
    train(data, tmp_path / "again", "triples.csv", *words)
    assert results(tmp_path / "again") == pytest.approx(before)


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_scores_are_learnt(data, tmp_path, loss):
    words = ("--epochs", 12, "--mode", "eager", "--loss", loss, "--max_score", 4, "--matryoshka_dimensions", 16, 4)
    train(data, tmp_path / "out", "scored.tsv", *words, validation_file="scored.tsv")
    assert results(tmp_path / "out")["spearman"] > 0.6


def test_sentences_are_distinguished(data, tmp_path):
    train(data, tmp_path / "out", "sentences.txt", "--epochs", 20, "--mode", "eager", "--pooling", "cls")
    found = list(losses(tmp_path / "out").values())
    assert np.mean(found[-5:]) < found[0] - 0.5


@pytest.mark.parametrize("train_file", ["scored.tsv", "triples.csv"])
def test_a_cross_encoder_is_learnt(data, tmp_path, train_file):
    words = ("--loss", "cross_encoder", "--epochs", 20, "--mode", "eager", "--max_score", 4)
    train(data, tmp_path / "out", train_file, *words, validation_file="scored.tsv")
    found = list(losses(tmp_path / "out").values())
    assert np.mean(found[-8:]) < 0.8 * found[0]
    if train_file == "scored.tsv":
        assert results(tmp_path / "out")["spearman"] > 0.5
    (answer,) = load(tmp_path / "out", mode="eager").text_classification("topica worda", "topica wordb")
    assert answer["label"] == "score"


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, mode):
    words = ("--epochs", 3, "--mode", mode, "--grad_acc_steps", 2, "--train_batch_size", 6, "--max_steps", 8)
    train(data, tmp_path / "whole", "pairs.csv", *words)
    train(data, tmp_path / "cut", "pairs.csv", *words, "--model_save_every_n_iter", 3, "--keep_last", 0)
    for step in (6, 8):
        for file in sorted((tmp_path / "cut" / f"checkpoint-{step}").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (tmp_path / "cut" / f"checkpoint-{step}").rmdir()
    (tmp_path / "cut" / "latest").unlink()
    train(data, tmp_path / "cut", "pairs.csv", *words, "--resume")
    whole, cut = (read_weights(tmp_path / name / "checkpoint-8" / "model.safetensors") for name in ("whole", "cut"))
    for name, array in whole.items():
        np.testing.assert_array_equal(cut[name], array, err_msg=name)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_two_ranks_equal_one(data, tmp_path, mode):
    rate = 0.1 if kernels.is_loaded() else 0  # stock kernels draw other masks on each rank
    words = ("--max_steps", 4, "--mode", mode, "--hidden_dropout_prob", rate, "--attention_probs_dropout_prob", rate)
    words += ("--grad_acc_steps", 2)
    train(data, tmp_path / "one", "pairs.csv", *words, validation_file="scored.tsv")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = f"-m oneflow.distributed.launch --nproc_per_node 2 --master_addr 127.0.0.1 --master_port {port}"
    command = flags(data, tmp_path / "two", "pairs.csv", *words, validation_file="scored.tsv")
    command[command.index("--train_batch_size") + 1] = "6"
    subprocess.run(
        [sys.executable, *launcher.split(), str(ROOT / "run_embedding.py"), *command],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
    assert results(tmp_path / "two") == pytest.approx(results(tmp_path / "one"), abs=1e-3)


@pytest.mark.parametrize(
    ("train_file", "words", "message"),
    [
        ("pairs.csv", ("--loss", "cosent"), "--loss cosent needs scored pairs, but .*pairs.csv has anchor, positive"),
        ("pairs.csv", ("--loss", "simcse"), "--loss simcse needs sentences"),
        ("pairs.csv", ("--loss", "cross_encoder"), "needs scored pairs or hard negatives"),
        ("sentences.txt", ("--loss", "multiple_negatives"), "needs pairs, but .* has sentences"),
        ("pairs.csv", ("--matryoshka_dimensions", 17), "17 is above the model's 16 dimensions"),
        ("scored.tsv", ("--loss", "cosine"), "is 4, not a number from -1 to 1: set --max_score"),
        ("pairs.csv", ("--text_columns", "anchr"), "did you mean 'anchor'"),
        ("pairs.csv", ("--padding", "none"), "--padding none is not available here"),
        ("pairs.csv", ("--packing", "best_fit"), "--packing best_fit is not available here"),
    ],
)
def test_mismatched_files_and_flags_are_refused(data, tmp_path, train_file, words, message):
    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "out", train_file, *words)
    assert not (tmp_path / "out").exists()


def test_a_student_learns_vectors_from_a_teacher_in_any_number_of_parts(data, tmp_path):
    words = ("--max_steps", 3, "--mode", "eager", "--hidden_dropout_prob", 0, "--attention_probs_dropout_prob", 0)
    train(data, tmp_path / "teacher", "pairs.csv", *words, "--num_hidden_layers", 2)
    words += ("--teacher", tmp_path / "teacher", "--distill_hidden_weight", 1, "--distill_attention_weight", 1)
    train(data, tmp_path / "one", "pairs.csv", *words, "--train_batch_size", 12)
    train(data, tmp_path / "parts", "pairs.csv", *words, "--train_batch_size", 4, "--grad_acc_steps", 3)
    names = ("total_loss", "label_loss", "distill_loss", "distill_hidden_loss", "distill_attention_loss")
    one, parts = (
        [[row[name] for name in names] for row in read_rows(tmp_path / run / "metrics.jsonl")[:3]]
        for run in ("one", "parts")
    )
    np.testing.assert_allclose(parts, one, rtol=1e-4)
    wider = ("--hidden_size_per_head", 10, "--num_hidden_layers", 1)
    with pytest.raises(UserError, match="has embeddings of size 16, but the model's have 20"):
        train(data, tmp_path / "other", "pairs.csv", *words, *wider)
