"""GLUE with small tasks that can be learnt: scores, seeds, the best checkpoint, leaderboard files."""

import json

import numpy as np
import pytest

from configs.cli import parse
from configs.glue import GlueConfig
from inference import load
from modeling.pretrained import WEIGHTS_FILE, read_weights, write_weights
from tasks.glue import finetune_glue
from training.journal import read_rows
from utils.errors import UserError

WORDS = [f"word{letter}" for letter in "abcdefghijkl"]


@pytest.fixture
def glue_dir(tmp_path):
    """RTE and STS-B, whose labels follow from the first word of the second sentence."""
    rng = np.random.default_rng(0)
    root = tmp_path / "glue"
    for name, header, prefix in (
        ("RTE", "index\tsentence1\tsentence2", ""),
        (
            "STS-B",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
            "\tg\tf\ty\to\ts\ts",
        ),
    ):
        (root / name).mkdir(parents=True)
        for split, rows in (("train", 48), ("dev", 20), ("test", 7)):
            label = {"RTE": "label", "STS-B": "score"}[name]
            lines = [header + ("" if split == "test" else f"\t{label}")]
            for row in range(rows):
                kind = int(rng.integers(2))
                second = f"{WORDS[kind]} {' '.join(rng.choice(WORDS[2:], 2))}"
                answer = {"RTE": ("entailment", "not_entailment")[kind], "STS-B": f"{4 * kind}.5"}[name]
                fields = [f"{row}{prefix}", " ".join(rng.choice(WORDS[2:], 3)), second]
                lines.append("\t".join(fields + ([] if split == "test" else [answer])))
            (root / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return root


def finetune(glue_dir, output, task, *more):
    words = ["--task_name", task, "--data_dir", glue_dir, "--vocab_file", glue_dir.parent / "vocab.txt"]
    words += ["--output_dir", output, "--max_seq_length", 13, "--train_batch_size", 8, "--seed", 3]
    if "--init_checkpoint" not in more and "False" not in more:
        words += ["--num_hidden_layers", 2, "--num_attention_heads", 2, "--hidden_size_per_head", 16]
    finetune_glue(parse(GlueConfig, [*map(str, words), *map(str, more)]))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_task_is_learnt_and_its_test_set_predicted(glue_dir, tmp_path, capsys, mode):
    output = tmp_path / "out"
    finetune(glue_dir, output, "rte", "--epochs", 8, "--lr", 3e-3, "--mode", mode, "--do_predict")
    results = json.loads((output / "eval_results.json").read_text())
    assert results == {"accuracy": 1.0}
    assert "rte    accuracy" in capsys.readouterr().out
    lines = (output / "RTE.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 8
    tests = [line.split("\t")[2] for line in (glue_dir / "RTE/test.tsv").read_text().splitlines()[1:]]
    expected = ["entailment" if text.startswith("worda") else "not_entailment" for text in tests]
    assert [line.split("\t")[1] for line in lines[1:]] == expected

    (output / "eval_results.json").unlink()
    finetune(glue_dir, output, "rte", "--do_train", "False", "--mode", mode)  # takes the best checkpoint that is there
    assert json.loads((output / "eval_results.json").read_text()) == results


def test_scores_and_several_seeds(glue_dir, tmp_path):
    output = tmp_path / "out"
    words = ("--epochs", 10, "--lr", 3e-3, "--hidden_dropout_prob", 0, "--attention_probs_dropout_prob", 0)
    finetune(glue_dir, output, "stsb", *words, "--seeds", 2, "--mode", "eager", "--do_predict")
    summary = json.loads((output / "summary.json").read_text())["stsb"]
    runs = [json.loads((output / f"seed-{seed}/eval_results.json").read_text()) for seed in (3, 4)]
    for metric in ("pearson", "spearman"):
        values = [run[metric] for run in runs]
        assert summary[metric]["seeds"] == 2 and summary[metric]["median"] == pytest.approx(np.median(values))
        assert (summary[metric]["min"], summary[metric]["max"]) == (min(values), max(values))
        assert min(values) > 0.5
    assert len((output / "seed-4/STS-B.tsv").read_text().splitlines()) == 8


def test_predictions_do_not_depend_on_padding(glue_dir, tmp_path, less_padding):
    tests = glue_dir / "STS-B/test.tsv"
    rows = tests.read_text().splitlines()
    longer = [row + f" {WORDS[4]}" * (number % 3) for number, row in enumerate(rows)]
    tests.write_text("\n".join([rows[0], *longer[1:]]) + "\n")
    finetune(glue_dir, tmp_path / "out", "stsb", "--max_steps", 5, "--mode", "eager", "--padding", less_padding)
    for padding in ("max_length", less_padding):
        words = ("--do_train", "False", "--do_eval", "False", "--do_predict", "--init_checkpoint", tmp_path / "out")
        finetune(glue_dir, tmp_path / padding, "stsb", *words, "--mode", "eager", "--padding", padding)
    assert (tmp_path / less_padding / "STS-B.tsv").read_text() == (tmp_path / "max_length/STS-B.tsv").read_text()


def test_a_resumed_run_keeps_the_best_checkpoint(glue_dir, tmp_path):
    words = ("--epochs", 3, "--lr", 3e-3, "--mode", "eager")
    finetune(glue_dir, tmp_path / "whole", "rte", *words)
    finetune(glue_dir, tmp_path / "cut", "rte", *words, "--max_steps", 18, "--model_save_every_n_iter", 6)
    best = json.loads((tmp_path / "cut/best/score.json").read_text())
    finetune(glue_dir, tmp_path / "cut", "rte", *words, "--max_steps", 18, "--resume")
    assert json.loads((tmp_path / "cut/best/score.json").read_text()) == best


def test_a_model_of_another_task_keeps_its_encoder(glue_dir, tmp_path, capsys):
    words = ("--mode", "eager", "--max_steps", 2)
    finetune(glue_dir, tmp_path / "rte", "rte", *words)
    config = json.loads((tmp_path / "rte/best/config.json").read_text())
    assert config["id2label"] == {"0": "entailment", "1": "not_entailment"} and "problem_type" not in config
    answers = load(tmp_path / "rte/best", device="cpu").text_classification("wordc", "worda")
    assert {answer["label"] for answer in answers} == {"entailment", "not_entailment"}
    other = ("--init_checkpoint", tmp_path / "rte/best")
    capsys.readouterr()
    finetune(glue_dir, tmp_path / "stsb", "stsb", *words, *other)
    said = capsys.readouterr().err
    assert "answers entailment, not_entailment, not score: the encoder is kept" in said
    config = json.loads((tmp_path / "stsb/best/config.json").read_text())
    assert config["id2label"] == {"0": "score"} and config["problem_type"] == "regression"
    finetune(glue_dir, tmp_path / "again", "rte", *words, *other)
    assert "the encoder is kept" not in capsys.readouterr().err
    with pytest.raises(UserError, match="answers score, not entailment, not_entailment: use a model of this task"):
        finetune(glue_dir, tmp_path / "no", "rte", "--do_train", "False", "--init_checkpoint", tmp_path / "stsb/best")


def test_a_missing_test_set_is_named(glue_dir, tmp_path):
    (glue_dir / "RTE/test.tsv").unlink()
    with pytest.raises(UserError, match=r"test\.tsv"):
        finetune(glue_dir, tmp_path / "out", "rte", "--do_predict")
    assert not (tmp_path / "out").exists()


def test_a_missing_task_is_an_error_before_any_training(glue_dir, tmp_path):
    with pytest.raises(UserError, match=r"cola|CoLA|train\.tsv"):
        finetune(glue_dir, tmp_path / "out", "all")
    assert not list((tmp_path / "out").glob("*/checkpoint-*"))


def test_a_used_directory_of_another_seed_is_an_error_before_any_training(glue_dir, tmp_path):
    (tmp_path / "out/seed-4/checkpoint-1").mkdir(parents=True)
    with pytest.raises(UserError, match="seed-4 is not empty"):
        finetune(glue_dir, tmp_path / "out", "rte", "--seeds", 2)
    assert not (tmp_path / "out/seed-3").exists()


def test_prediction_without_evaluation_needs_no_labels(glue_dir, tmp_path):
    finetune(glue_dir, tmp_path / "out", "rte", "--max_steps", 2)
    (glue_dir / "RTE/dev.tsv").unlink()
    words = ("--do_train", "False", "--do_eval", "False", "--do_predict")
    finetune(glue_dir, tmp_path / "out", "rte", *words)
    assert len((tmp_path / "out/RTE.tsv").read_text().splitlines()) == 8


def test_a_teacher_needs_a_classifier_of_the_same_labels(glue_dir, tmp_path):
    words = ("--mode", "eager", "--max_steps", 1, "--hidden_dropout_prob", 0, "--attention_probs_dropout_prob", 0)
    teacher = tmp_path / "teacher/best"
    finetune(glue_dir, tmp_path / "teacher", "rte", *words)
    student = ("--init_checkpoint", teacher, *words, "--teacher")
    finetune(glue_dir, tmp_path / "student", "rte", *student, teacher)
    row = read_rows(tmp_path / "student/metrics.jsonl")[0]
    assert row["distill_loss"] < 1e-6 and row["total_loss"] == pytest.approx(row["label_loss"] / 2, rel=1e-5)
    with pytest.raises(UserError, match=r"predicts entailment, not_entailment, but .* fine-tuned for the same labels"):
        finetune(glue_dir, tmp_path / "other", "stsb", *student, teacher)
    arrays = {name: array for name, array in read_weights(teacher / WEIGHTS_FILE).items() if "classifier" not in name}
    write_weights(teacher / WEIGHTS_FILE, arrays)
    with pytest.raises(UserError, match="has no classifier, so it was not trained for this task"):
        finetune(glue_dir, tmp_path / "other", "rte", *words, "--teacher", teacher)
    finetune(
        glue_dir, tmp_path / "layers", "rte", *student, teacher, "--distill_weight", 0, "--distill_hidden_weight", 1
    )
