"""A small tagged corpus is learnt in every format and scheme; tags, figures and inference agree."""

import json

import numpy as np
import pytest

from configs.cli import parse
from configs.tagging import TaggingConfig
from data.tagging import read_tagged
from inference import load
from tasks.tagging import finetune_tagger
from tests.training.whole_runs import removed_by_overwriting
from training.journal import read_rows
from utils.errors import UserError

WORDS = "the saw in to went red".split()
NAMES = {"PER": [["anna"], ["ben", "smith"]], "LOC": [["rome"], ["new", "york"]]}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "anna", "be", "##n", "smith", "rome", "new", "york"]
SMALL = "--num_hidden_layers 2 --num_attention_heads 2 --hidden_size_per_head 16 --train_batch_size 8 --seed 3".split()
PREFIXES = {"iob2": ("B", "I", "B"), "bioes": ("B", "E", "S")}  # of two words, and of one


def sentences(count, seed, scheme="iob2"):
    rng = np.random.default_rng(seed)
    begin, end, single = PREFIXES[scheme]
    for _ in range(count):
        words, tags = [], []
        for _ in range(int(rng.integers(2, 6))):
            kind = ("PER", "LOC", None, None)[rng.integers(4)]
            own = NAMES[kind][rng.integers(2)] if kind else [WORDS[rng.integers(len(WORDS))]]
            marks = [single] if len(own) == 1 else [begin, end]
            words += own
            tags += [f"{mark}-{kind}" for mark in marks] if kind else ["O"]
        yield words, tags


def conll(path, content):
    blocks = ["".join(f"{word} X {tag}\n" for word, tag in zip(*pair, strict=True)) for pair in content]
    path.write_text("-DOCSTART- X O\n\n" + "\n".join(blocks))
    return path


def tag(tmp_path, output, *words, size=SMALL):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    flags = ["--vocab_file", tmp_path / "vocab.txt", "--output_dir", output, "--max_seq_length", 8, *size, *words]
    finetune_tagger(parse(TaggingConfig, [str(word) for word in flags]))


@pytest.mark.parametrize(("mode", "scheme"), [("eager", "iob2"), ("graph", "bioes")])
def test_entities_are_learnt(tmp_path, mode, scheme):
    train, dev = (conll(tmp_path / f"{n}.conll", sentences(c, n, scheme)) for n, c in ((1, 120), (2, 30)))
    output, words = tmp_path / "out", ("--epochs", 6, "--lr", 3e-3, "--mode", mode)
    tag(tmp_path, output, "--train_file", train, "--validation_file", dev, *words)
    results = json.loads((output / "eval_results.json").read_text())
    assert results["f1"] > 0.9 and set(results["per_type"]) == {"LOC", "PER"}
    assert removed_by_overwriting(output) == {path.name for path in output.iterdir()}
    gold = list(sentences(30, 2))
    found = read_tagged(output / "predictions.jsonl")
    assert found.tokens == [tokens for tokens, _ in gold]
    right = np.mean([a == b for (_, tags), own in zip(gold, found.tags, strict=True) for a, b in zip(tags, own)])  # noqa: B905
    assert right == pytest.approx(results["accuracy"])
    model = load(output / "best", mode="eager", device="cpu")
    answer = model.token_classification("the Ben Smith saw New York")
    assert [(one["entity_group"], one["word"], one["start"]) for one in answer] == [
        ("PER", "ben smith", 4),
        ("LOC", "new york", 18),
    ]
    again = ("--do_train", "False", "--init_checkpoint", output / "best", "--validation_file", dev)
    tag(tmp_path, tmp_path / "again", *again, size=[])
    assert json.loads((tmp_path / "again/eval_results.json").read_text()) == results


def test_padding_to_the_longest_changes_no_loss(tmp_path):
    train = conll(tmp_path / "a.conll", sentences(21, 1))
    losses = []
    for padding in ("max_length", "longest"):
        words = ("--train_file", train, "--validation_file", train, "--train_batch_size", 32)
        words += ("--padding", padding, "--mode", "eager", "--hidden_dropout_prob", 0)
        words += ("--attention_probs_dropout_prob", 0, "--loss_print_every_n_iters", 1, "--epochs", 1)
        tag(tmp_path, tmp_path / padding, *words)
        losses.append(read_rows(tmp_path / padding / "metrics.jsonl")[0]["total_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_parts_of_speech_from_json_lines(tmp_path):
    rows = [{"tokens": words, "tags": ["N" if t != "O" else "V" for t in tags]} for words, tags in sentences(60, 1)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--train_file", path, "--validation_file", path, "--epochs", 4, "--lr", 3e-3, "--mode", "eager")
    tag(tmp_path, tmp_path / "out", *words, "--seeds", 2)
    results = json.loads((tmp_path / "out/seed-4/eval_results.json").read_text())
    assert set(results) == {"accuracy", "macro_f1"} and results["accuracy"] > 0.9
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["tags"]["accuracy"]["seeds"] == 2


def test_bad_input_is_one_sentence_before_any_training(tmp_path):
    train = conll(tmp_path / "a.conll", sentences(9, 1))
    bad = tmp_path / "b.conll"
    for text, message in (
        ("rome B-LOC\nto I-PER\n", r"b\.conll row 1 \(line 2\): the tag 'I-PER' cannot follow 'B-LOC'"),
        ("rome B-ORG\n", r"b\.conll row 1 \(line 1\) has the tag 'B-ORG', which the training data lacks"),
    ):
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            tag(tmp_path, tmp_path / "out", "--train_file", train, "--validation_file", bad)
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_texts_is_not_a_tagger(tmp_path, capsys):
    train = conll(tmp_path / "a.conll", sentences(9, 1))
    tag(tmp_path, tmp_path / "out", "--train_file", train, "--max_steps", 1, "--mode", "eager")
    config = tmp_path / "out/checkpoint-1/config.json"
    content = config.read_text()
    assert '"BertForTokenClassification"' in content
    config.write_text(content.replace("BertForTokenClassification", "BertForSequenceClassification"))
    words = ("--init_checkpoint", tmp_path / "out/checkpoint-1", "--max_steps", 1, "--mode", "eager")
    tag(tmp_path, tmp_path / "other", "--train_file", train, *words, size=[])
    assert "the encoder is kept" in capsys.readouterr().err


def test_a_teacher_of_the_same_weights_has_nothing_to_teach(tmp_path):
    train = conll(tmp_path / "1.conll", sentences(20, 1))
    words = ("--train_file", train, "--mode", "eager", "--max_steps", 1, "--hidden_dropout_prob", 0)
    words += ("--attention_probs_dropout_prob", 0)
    tag(tmp_path, tmp_path / "teacher", *words)
    same = ("--init_checkpoint", tmp_path / "teacher", "--teacher", tmp_path / "teacher")
    tag(tmp_path, tmp_path / "student", *words, *same, size=[])
    row = read_rows(tmp_path / "student/metrics.jsonl")[0]
    assert row["distill_loss"] < 1e-6 and row["total_loss"] == pytest.approx(row["label_loss"] / 2, rel=1e-5)
