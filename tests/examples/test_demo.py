"""The parts of the demo that do not train."""

import json

import pytest

from examples import demo

SOURCE = '''
"""The first line of a module that explains much.

Another paragraph of it says even more than that.
"""
# One comment,
# of three lines,
# is a text.
# (Four, in fact.)
x = 1  # a short one is not

def function():
    """Returns too few words."""

class Some:
    """A class whose docstring has more than five blanks."""
'''


def test_documentation_consists_of_docstrings_and_long_comments(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    module, some, comment = demo.documentation(path)
    assert module.startswith("The first line") and some.startswith("A class whose")
    assert comment.splitlines() == ["One comment,", "of three lines,", "is a text.", "(Four, in fact.)"]
    path.write_text("def broken(:")
    assert list(demo.documentation(path)) == []


def test_paragraphs_lose_line_breaks_and_code():
    text = "Some words that\nfill two lines.\n\n>>> code(1, 2, 3, 4, 5, 6)\n\nToo short.\n\n----\n"
    assert demo.paragraphs(text) == ["Some words that fill two lines."]


def test_every_twentieth_document_is_held_out(tmp_path):
    (tmp_path / "sentences").mkdir()
    documents = [f"document {number}.\nits end." for number in range(47)]
    (tmp_path / "sentences" / "a.txt").write_text("\n\n".join(documents[:30]) + "\n")
    (tmp_path / "sentences" / "b.txt").write_text("\n\n".join(documents[30:]))
    training, held_out = demo.split_documents(tmp_path / "sentences", tmp_path)
    assert held_out.read_text().strip().split("\n\n") == [documents[7], documents[27]]
    rest = [document for number, document in enumerate(documents) if number % 20 != 7]
    assert training.read_text().strip().split("\n\n") == rest


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "sentences").mkdir()
    (tmp_path / "sentences" / "a.txt").write_text("only one document.\n")
    with pytest.raises(SystemExit, match="has 1 documents, but the demo needs 40"):
        demo.split_documents(tmp_path / "sentences", tmp_path)


def test_the_longest_word_of_a_sentence_is_masked(tmp_path):
    path = tmp_path / "held_out.txt"
    path.write_text("too short\n\nthis sentence contains sentence twice and more\n" + "word " * 21 + "\n")
    assert demo.mask_sentences(path) == ["this [MASK] contains sentence twice and more"]


@pytest.mark.parametrize(
    ("throughput", "size", "steps"),
    [
        ({"mini": 1000}, "mini", demo.MAX_STEPS),
        ({"mini": 41.0}, "mini", 300),
        ({"mini": 30, "tiny": 60}, "tiny", 450),
        ({"mini": 1, "tiny": 2}, "tiny", 100),
    ],
)
def test_the_machines_speed_determines_size_and_steps(monkeypatch, throughput, size, steps):
    def train(command, **_):
        directory = command[command.index("--output_dir") + 1]
        speed = throughput[command[command.index("--model_size") + 1]]
        with open(f"{directory}/metrics.jsonl", "w", encoding="utf-8") as file:
            file.write(json.dumps({"throughput": speed / 2}) + "\n" + json.dumps({"throughput": speed}) + "\n")

    monkeypatch.setattr(demo.subprocess, "run", train)
    assert demo.choose_size([]) == (size, steps)
