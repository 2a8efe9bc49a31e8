"""Own files through the classifier: every kind of label, GLUE's figures, predictions, windows, early stopping."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from configs.classifier import ClassifierConfig
from configs.cli import parse
from configs.glue import GlueConfig
from inference import load
from tasks.glue import finetune_glue
from tasks.labelled_files import finetune_classifier
from tests.training.whole_runs import removed_by_overwriting
from training.journal import read_rows
from utils.errors import UserError

WORDS = [f"word{letter}" for letter in "abcdefghijkl"]
SMALL = "--num_hidden_layers 2 --num_attention_heads 2 --hidden_size_per_head 16 --train_batch_size 8 --seed 3".split()
NO_DROPOUT = "--hidden_dropout_prob 0 --attention_probs_dropout_prob 0".split()


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def rows(count, seed, kind):
    """Texts whose first word tells the label."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        number = int(rng.integers(3))
        text = f"{WORDS[number]} " + " ".join(rng.choice(WORDS[3:], 3))
        yield text, {"single": "pqr"[number], "several": [*"pqrhk"[number::2]], "number": number - 0.5}[kind]


def write_csv(path, content):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["text", "label"], *content])
    return path


def write_json(path, content):
    path.write_text("".join(json.dumps({"text": text, "labels": label}) + "\n" for text, label in content))
    return path


def classify(vocab, output, *words, max_seq_length=9, size=SMALL):
    flags = ["--vocab_file", vocab, "--output_dir", output, "--max_seq_length", max_seq_length, *size, *words]
    finetune_classifier(parse(ClassifierConfig, [str(word) for word in flags]))
    path = output / "eval_results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def predictions(output):
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_one_label(vocab, tmp_path, mode):
    files = [write_csv(tmp_path / f"{n}.csv", rows(c, n, "single")) for n, c in ((1, 60), (2, 21), (3, 7))]
    words = ("--train_file", files[0], "--validation_file", files[1], "--test_file", files[2], "--mode", mode)
    output = tmp_path / "out"
    results = classify(vocab, output, *words, "--epochs", 8, "--lr", 3e-3, "--class_weights", "balanced")
    assert results["accuracy"] == results["macro_f1"] == results["micro_f1"] == results["matthews_correlation"] == 1
    assert results["per_class"]["p"] == {"precision": 1, "recall": 1, "f1": 1, "support": pytest.approx(7, abs=5)}
    assert (output / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert removed_by_overwriting(output) == {path.name for path in output.iterdir()}
    found = predictions(output)
    assert [list(row) for row in found[:1]] == [["text", "label", "prediction", "score"]]
    assert [row["prediction"] for row in found] == [row["label"] for row in found]
    model = load(output / "best", mode="eager", device="cpu")
    for row in found:
        answer = model.text_classification(row["text"])[0]
        assert answer["label"] == row["prediction"]
        assert answer["score"] == pytest.approx(float(row["score"]), abs=2e-5)
    again = tmp_path / "again"  # without training the labels are the model's
    evaluated = ("--do_train", "False", "--init_checkpoint", output / "best", "--validation_file", files[1])
    assert classify(vocab, again, *evaluated, size=[], max_seq_length=9) == results


def test_several_labels(vocab, tmp_path):
    file = write_json(tmp_path / "a.jsonl", rows(160, 1, "several"))
    output = tmp_path / "out"
    words = ("--train_file", file, "--validation_fraction", 0.25, "--epochs", 8, "--lr", 3e-3, "--mode", "eager")
    results = classify(vocab, output, *words, *NO_DROPOUT, "--class_weights", "balanced")
    assert results["micro_f1"] > 0.9 and results["mean_average_precision"] > 0.9
    names = ("h", "k", "p", "q", "r")
    found = predictions(output)
    assert len(found) == 40
    true = [[name in json.loads(row["labels"]) for name in names] for row in found]
    answered = [[name in row["prediction"].split("|") for name in names] for row in found]
    assert results["macro_f1"] == pytest.approx(f1_score(true, answered, average="macro"))
    assert all(len(row["score"].split("|")) == len(row["prediction"].split("|")) for row in found)
    config = json.loads((output / "best/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and tuple(config["label2id"]) == names


def test_numbers(vocab, tmp_path):
    content = list(rows(70, 1, "number"))
    (tmp_path / "a.tsv").write_text("text\tscore\n" + "".join(f"{text}\t{number}\n" for text, number in content))
    output = tmp_path / "out"
    words = ("--train_file", tmp_path / "a.tsv", "--validation_file", tmp_path / "a.tsv", *NO_DROPOUT)
    results = classify(vocab, output, *words, "--epochs", 10, "--lr", 3e-3, "--mode", "eager")
    assert set(results) == {"pearson", "spearman", "rmse"} and results["pearson"] > 0.9
    answers = np.array([float(row["prediction"]) for row in predictions(output)])
    expected = np.array([number for _, number in content])
    assert results["pearson"] == pytest.approx(np.corrcoef(answers, expected)[0, 1], abs=1e-5)
    assert results["rmse"] == pytest.approx(np.sqrt(np.mean((answers - expected) ** 2)), abs=1e-5)


def test_rte_gives_the_figures_of_run_glue(vocab, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "RTE").mkdir()
    for split, count in (("train", 48), ("dev", 20)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for row in range(count):
            kind = int(rng.integers(2))
            fields = [row, f'say "{rng.choice(WORDS)}', f"{WORDS[kind]} {rng.choice(WORDS)}"]
            lines.append("\t".join(map(str, [*fields, ("entailment", "not_entailment")[kind ^ int(row % 5 == 0)]])))
        (tmp_path / f"RTE/{split}.tsv").write_text("\n".join(lines) + "\n")
    train = ["--epochs", "4", "--lr", "3e-3", "--mode", "eager", "--vocab_file", str(vocab), "--max_seq_length", "13"]
    glue = ["--task_name", "rte", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "glue")]
    finetune_glue(parse(GlueConfig, [*glue, *train, *SMALL]))
    own = ("--train_file", tmp_path / "RTE/train.tsv", "--validation_file", tmp_path / "RTE/dev.tsv")
    columns = ("--text_column", "sentence1", "--text_pair_column", "sentence2", "--label_column", "label")
    results = classify(vocab, tmp_path / "own", *own, *columns, *train)
    expected = json.loads((tmp_path / "glue/eval_results.json").read_text())
    assert {name: results[name] for name in expected} == expected
    rows_of = [
        [row for row in read_rows(tmp_path / name / "metrics.jsonl") if "total_loss" in row] for name in ("glue", "own")
    ]
    assert [row["total_loss"] for row in rows_of[0]] == [row["total_loss"] for row in rows_of[1]]


@pytest.mark.parametrize("how", ["truncate_head", "windows"])
def test_long_texts_are_answered_as_in_training(vocab, tmp_path, how):
    content = [(f"{' '.join(['wordl'] * 11)} {text}", label) for text, label in rows(40, 1, "single")]
    file = write_csv(tmp_path / "a.csv", content)
    output = tmp_path / "out"
    words = ("--train_file", file, "--validation_file", file, "--long_text", how, "--epochs", 2, "--mode", "eager")
    classify(vocab, output, *words)
    model = load(output / "best", mode="eager", device="cpu")
    for row in predictions(output)[:9]:
        answer = model.text_classification(row["text"])[0]
        assert answer["label"] == row["prediction"]
        assert answer["score"] == pytest.approx(float(row["score"]), abs=2e-5)
    cut = model.text_classification(content[0][0], long_text="truncate_tail")
    assert cut == model.text_classification(" ".join(content[0][0].split()[:7]), long_text="windows")


def test_training_stops_early_and_resumes_as_it_was(vocab, tmp_path):
    file = write_csv(tmp_path / "a.csv", rows(40, 1, "single"))
    words = ("--train_file", file, "--validation_file", file, "--epochs", 9, "--lr", 0, "--mode", "eager")
    classify(vocab, tmp_path / "out", *words, "--early_stopping_patience", 2)
    evaluated = [row for row in read_rows(tmp_path / "out/metrics.jsonl") if "eval_score" in row]
    assert [row["step"] for row in evaluated] == [5, 10, 15]
    assert (tmp_path / "out/checkpoint-15").is_dir()
    before = (tmp_path / "out/metrics.jsonl").read_text()
    classify(vocab, tmp_path / "out", *words, "--early_stopping_patience", 2, "--resume")
    assert (tmp_path / "out/metrics.jsonl").read_text() == before
    assert not (tmp_path / "out/checkpoint-20").exists()


@pytest.mark.parametrize("flags", [(), ("--long_text", "windows", "--label_smoothing", 0.1), ("--freeze_layers", 1)])
def test_a_resumed_run_equals_an_uninterrupted_one(vocab, tmp_path, flags):
    file = write_csv(tmp_path / "a.csv", rows(30, 1, "single"))
    words = ("--train_file", file, "--validation_file", file, "--lr", 1e-3, "--layer_lr_decay", 0.8, *flags)
    words = (*words, "--loss_print_every_n_iters", 1, "--eval_every_n_iters", 2, "--mode", "eager", "--max_steps", 6)
    whole = classify(vocab, tmp_path / "whole", *words, max_seq_length=5)
    classify(vocab, tmp_path / "cut", *words, "--model_save_every_n_iter", 3, "--keep_last", 0, max_seq_length=5)
    import shutil

    shutil.rmtree(tmp_path / "cut/checkpoint-6")
    (tmp_path / "cut/latest").write_text("checkpoint-3\n")
    assert classify(vocab, tmp_path / "cut", *words, "--resume", max_seq_length=5) == whole
    names = [tmp_path / name / "checkpoint-6/model.safetensors" for name in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize(
    ("train", "validation", "flags", "message"),
    [
        ("text,label\na,x\n ,x\nb,y\nc,y\n", None, (), r"train\.csv row 2 \(line 3\) has an empty text in 'text'"),
        ("text,label\na,x\nb,x\nc,y\nd,y\n", "text,label\na,z\n", (), r"validation\.csv row 1.*label 'z'"),
        ("text,label\na,x\nb,x\nc,y\nd,y\n", "text,labels\na,x\n", (), r"validation\.csv row 1 has no column 'label'"),
        ("text,label\na,x\nb,y\n", None, (), r"row 1 \(line 2\) has the only example of the label 'x'"),
        ("text,label\na,1.5\nb,nan\n", None, (), r"row 2 \(line 3\) has the score 'nan'"),
        ("text,label\na,x\nb,x\n", None, ("--text_column", "txt"), r"no column 'txt'.*did you mean 'text'"),
        ("a,b,c\nd,e,f\n", None, (), "--text_column is missing"),
        ("text,label\na,1.5\nb,2\n", None, ("--class_weights", "balanced"), "--class_weights needs labels"),
        ("text,label\na,1.5\nb,2\n", None, ("--label_smoothing", 0.1), "--label_smoothing needs exactly one label"),
        ("text,label\na,1.5\nb,2\n", None, ("--best_metric", "accuracy"), "--best_metric accuracy is not a metric"),
    ],
)
def test_bad_input_is_one_sentence_before_any_training(vocab, tmp_path, train, validation, flags, message):
    for name, content in (("train", train), ("validation", validation)):
        if content is not None:
            (tmp_path / f"{name}.csv").write_text(content)
    files = ("--train_file", tmp_path / "train.csv")
    files += ("--validation_file", tmp_path / "validation.csv") if validation else ()
    with pytest.raises(UserError, match=message):
        classify(vocab, tmp_path / "out", *files, *flags)
    assert not (tmp_path / "out").exists()


def test_class_weights_from_a_file(vocab, tmp_path):
    file = write_csv(tmp_path / "a.csv", rows(30, 1, "single"))
    weights = tmp_path / "weights.json"
    words = ("--train_file", file, "--max_steps", 1, "--mode", "eager", "--class_weights", weights)
    weights.write_text('{"p": 1, "q": 2, "r": 0.5}')
    classify(vocab, tmp_path / "out", *words)
    weights.write_text('{"p": 1, "q": 2}')
    with pytest.raises(UserError, match="has no weight for the label 'r'"):
        classify(vocab, tmp_path / "other", *words)
