"""run_infer.py answers rows from flags, files, standard input and a prompt."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

import run_infer
from conversion import read_checkpoint, write_checkpoint
from inference import load
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"


@pytest.fixture
def infer(monkeypatch, capsys):
    """Runs the command with flags and standard input; returns what it printed."""

    def call(*flags, model="pretraining", stdin=b"", terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(stdin))
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)
        path = model if isinstance(model, Path) else FIXTURES / model
        monkeypatch.setattr(
            sys, "argv", ["run_infer.py", "--mode", "eager", "--model_path", str(path), *map(str, flags)]
        )
        # The first test that imports the framework fixes the settings of the process.
        monkeypatch.setattr("kernels.configure", lambda *arguments, **options: {})
        run_infer.main()
        return capsys.readouterr().out

    return call


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_texts_in_flags(infer):
    out = infer("--text", "the [MASK] sat.", "who [MASK] [MASK]?", "--top_k", 2)
    assert "the [MASK] sat.\n" in out and "mask 2" in out and out.count("%") == 6


def test_a_text_without_masks_or_with_too_many_is_refused(infer):
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        infer("--text", "nothing to fill")
    with pytest.raises(UserError, match=r"--max_predictions_per_seq 3 is too low.* 4 .MASK"):
        infer("--text", "[MASK] " * 4, "--max_predictions_per_seq", 3)


def test_questions_in_flags(infer):
    out = infer("--question", "who?", "--context", "the cat sat.", "--top_k", 2, model="question_answering")
    assert out.startswith("who?\n") and out.count("%") == 2
    out = infer("--question", "who?", "--context", "the cat", "--version_2_with_negative", "--top_k", 99,
                model="question_answering")  # fmt: skip
    assert "(no answer)" in out


def test_pairs_classes_and_vectors(infer):
    out = infer("--task", "next-sentence", "--text", "a cat", "--text_pair", "it ran")
    assert out.startswith("a cat | it ran\n") and ("is_next" in out or "random" in out)
    assert "white" in infer("--text", "the dog ran.", model="classification")
    assert "6 vectors of 15 numbers" in infer("--task", "feature-extraction", "--text", "the dog ran.")
    assert "a vector of 15" in infer("--task", "feature-extraction", "--text", "the dog.", "--pooling", "mean")


LINES = b'the [MASK] sat\n\nno mask\r\n{"id": "q7", "text": "a [MASK]"}\n\xff\xfe [MASK]\n{"text": 5}\n{ [MASK]'


def check_lines(found):
    assert [sorted(row) for row in found] == [["answer"], ["error"], ["error"], ["answer", "id"], ["error"], ["error"],
                                              ["error"]]  # fmt: skip
    assert found[3]["id"] == "q7"
    assert found[1]["error"] == "the text is empty."
    assert found[4]["error"] == "line 5 is not valid UTF-8."
    assert found[6]["error"].startswith("line 7 begins with { but is not a JSON object")


def test_a_file_to_a_file(infer, tmp_path):
    (tmp_path / "in.txt").write_bytes(LINES)
    assert infer("--input_path", tmp_path / "in.txt", "--output_path", tmp_path / "out.jsonl") == ""
    check_lines(rows((tmp_path / "out.jsonl").read_text()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_standard_input_to_standard_output(infer):
    check_lines(rows(infer("--input_path", "-", "--output_path", "-", stdin=LINES)))
    check_lines(rows(infer("--output_path", "-", stdin=LINES)))
    assert infer(stdin=LINES).count("error: ") == 5


def test_tabs_separate_the_texts(infer):
    lines = b"where was the cat?\tthe cat sat in a tree.\nwho?\n"
    first, second = rows(infer("--output_path", "-", stdin=lines, model="question_answering"))
    assert first["answer"][0]["answer"] in "the cat sat in a tree."
    assert second == {"error": "'context' is missing."}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a cat\t1", "the second column, '1', is a label or a number"),
        ("a cat\t3.8", "a number"),
        ("a cat\tWHITE", "'WHITE', is a label"),
        ("a cat\tit ran\t0", "has 3 columns, separated by tabs, but the task needs 2: text, text_pair"),
        ("{bad json", "is not a JSON object"),
    ],
)
def test_rows_that_would_be_misread_are_errors(line, message, infer):
    lines = f"a cat\tit ran\n{line}\n".encode()
    pair, wrong = rows(infer("--output_path", "-", stdin=lines, model="classification"))
    assert "answer" in pair and wrong["error"].startswith("line 2") and message in wrong["error"]


@pytest.mark.parametrize("header", ["sentence,label", '"text","label"', "index\tsentence1\tsentence2\tlabel"])
def test_a_header_line_is_refused(header, infer):
    with pytest.raises(UserError, match=r"line 1, .*, is a header with columns"):
        infer("--output_path", "-", stdin=f"{header}\nthe dog\n".encode(), model="classification")


def test_a_line_that_is_too_long_is_an_error(infer, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.command._MOST_LINE_BYTES", 40)
    found = rows(infer("--output_path", "-", stdin=b"a [MASK]\n" + b"x " * 100 + b"[MASK]\nthe [MASK]\n"))
    assert [sorted(row) for row in found] == [["answer"], ["error"], ["answer"]]
    assert "line 2 is longer" in found[1]["error"]


def test_missing_input_and_unwritable_output_are_named(infer, tmp_path):
    with pytest.raises(UserError, match="contains no lines"):
        infer("--input_path", "-", "--output_path", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be read"):
        infer("--input_path", tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        infer("--input_path", tmp_path)
    with pytest.raises(UserError, match=r"--output_path .* cannot be written"):
        infer("--text", "a [MASK]", "--output_path", tmp_path / "no" / "out")
    with pytest.raises(UserError, match="--output_path / is a directory: name a file"):
        infer("--text", "a [MASK]", "--output_path", "/")


def test_an_interrupted_run_keeps_its_answers(infer, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        yield {"text": "a"}, "first"
        raise KeyboardInterrupt

    monkeypatch.setattr("inference.command._answered", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer("--input_path", "-", "--output_path", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    assert rows((tmp_path / "out.partial").read_text()) == [{"answer": "first"}]
    assert "out.partial" in capsys.readouterr().err


def test_a_conversation(infer, monkeypatch):
    said = iter(["the [MASK]", "no mask", "[MASK]", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    out = infer("--top_k", 1, terminal=True)
    assert out.count("%") == 2 and "error: the text contains no [MASK]" in out
    said = iter(["who?", "the cat."])

    def ask(prompt):
        for line in said:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", ask)
    assert "%" in infer(model="question_answering", terminal=True)


@pytest.mark.parametrize("flags", [("--num_attention_heads", 3), ("-a", 3, "-s", 29), ("--hidden_size_per_head", 5)])
def test_a_lazy_model_without_a_vocabulary(infer, tmp_path, flags):
    write_checkpoint(read_checkpoint(FIXTURES / "pretraining"), tmp_path / "lazy", "lazy")
    vocabulary = shutil.move(tmp_path / "lazy" / "vocab.txt", tmp_path / "vocab.txt")
    (tmp_path / "lazy" / "tokenizer.json").unlink()
    (tmp_path / "lazy" / "bert_config.json").unlink()
    out = infer("--use_lazy_model", *flags, model=tmp_path / "lazy")
    assert "--vocab_file" in out and out.count("%") == 5
    with pytest.raises(UserError, match="--vocab_file"):
        infer("--use_lazy_model", *flags, "--text", "a [MASK]", model=tmp_path / "lazy")
    with_words = infer(
        "--use_lazy_model", *flags, "--text", "a [MASK]", "--vocab_file", vocabulary, model=tmp_path / "lazy"
    )
    assert with_words == infer("--text", "a [MASK]")


def test_a_task_without_its_head_lists_the_possible_tasks(infer):
    with pytest.raises(UserError, match="it supports fill-mask, next-sentence, feature-extraction"):
        infer("--task", "question-answering", "--question", "a", "--context", "b")


def test_a_long_stream_keeps_its_order(infer, tmp_path):
    lengths = [(7 * n) % 41 for n in range(3000)]
    text = "".join(json.dumps({"id": n, "text": "cat " * length + "[MASK]"}) + "\n" for n, length in enumerate(lengths))
    (tmp_path / "in.jsonl").write_text(text)
    infer("--input_path", tmp_path / "in.jsonl", "--output_path", tmp_path / "out.jsonl", "--top_k", 1)
    found = rows((tmp_path / "out.jsonl").read_text())
    assert [row["id"] for row in found] == list(range(3000))
    model = load(FIXTURES / "pretraining", mode="eager")
    by_length = {length: model.fill_mask("cat " * length + "[MASK]", top_k=1)[0]["token"] for length in set(lengths)}
    assert [row["answer"][0]["token"] for row in found] == [by_length[length] for length in lengths]
