"""The questions of SQuAD files, and what is wrong with bad ones."""

from pathlib import Path

import pytest

from data.squad.examples import questions, read_squad_examples, read_squad_json
from tests.data.squad_files import CONTEXT, question, squad
from utils.errors import UserError


def test_answers_not_at_their_offset(tmp_path, vocab_file, capsys):
    def qas():
        return [
            question(CONTEXT, "Paris", 0),
            question(CONTEXT, "Paris", 1, start=3),
            question(CONTEXT, "Berlin", 2, start=5),
            question(CONTEXT, "cat", 3, start=len(CONTEXT)),
            question(CONTEXT, "cat", 4, start=-2),
            question(CONTEXT, "", 5, start=0),
        ]

    path = squad(tmp_path, (CONTEXT, qas()))
    examples = read_squad_examples(path, is_training=True, version_2_with_negative=False)
    assert [example.qas_id for example in examples] == ["q0"]
    assert "5 of 6 questions" in capsys.readouterr().err
    assert len(read_squad_examples(path, is_training=False, version_2_with_negative=False)) == 6


def test_the_answer_that_stands_alone_is_preferred(tmp_path):
    context = "They won 20\u201318, the eighth time: 8 wins, or eight."

    def answered(*answers):
        texts = [
            {"text": text, "answer_start": context.index(text) if start is None else start} for text, start in answers
        ]
        path = squad(tmp_path, (context, [question(context, "won", 0) | {"answers": texts}]))
        (example,) = read_squad_examples(path, is_training=True, version_2_with_negative=False)
        return example.orig_answer_text, example.doc_tokens[example.start_position]

    assert answered(("8", None)) == ("8", "20\u201318,")
    assert answered(("8", None), ("eight", None)) == ("8", "20\u201318,")  # "eighth" is no better
    assert answered(("8", None), ("eight", context.rindex("eight"))) == ("eight", "eight.")
    assert answered(("8", None), ("eight", 2), ("8", context.rindex("8"))) == ("8", "8")
    assert answered(("They", None), ("eight", context.rindex("eight"))) == ("They", "They")


def test_an_empty_question_is_only_used_for_evaluation(tmp_path, capsys):
    empty = question(CONTEXT, "Paris", 0) | {"question": " "}
    path = squad(tmp_path, (CONTEXT, [empty, question(CONTEXT, "Paris", 1)]))
    assert len(read_squad_examples(path, is_training=False, version_2_with_negative=False)) == 2
    assert len(read_squad_examples(path, is_training=True, version_2_with_negative=False)) == 1
    assert "1 of 2 questions have no text" in capsys.readouterr().err


def test_errors_in_files_say_where(tmp_path):
    def read(path, training=False, v2=False):
        return read_squad_examples(path, is_training=training, version_2_with_negative=v2)

    good = question(CONTEXT, "Paris", 0)
    with pytest.raises(UserError, match="two questions have the id 'q0'"):
        read(squad(tmp_path, (CONTEXT, [good]), (CONTEXT, [good])))
    with pytest.raises(UserError, match="--version_2_with_negative True"):
        read(squad(tmp_path, (CONTEXT, [question(CONTEXT, "x", 1, impossible=True)])))
    with pytest.raises(UserError, match="'q0' has no answer"):
        read(squad(tmp_path, (CONTEXT, [good | {"answers": []}])), training=True)
    with pytest.raises(UserError, match="none of its 1 questions"):
        read(squad(tmp_path, (CONTEXT, [question(CONTEXT, "Rome", 0)])), training=True)
    with pytest.raises(UserError, match="contains no question"):
        read(squad(tmp_path))
    with pytest.raises(UserError, match=r"data\[0\]\.paragraphs\[0\]\.qas\[1\] has no 'question' that is a string"):
        read(squad(tmp_path, (CONTEXT, [good, {"id": "q1", "question": 5}])))
    with pytest.raises(UserError, match=r"qas\[0\]\.answers\[0\] has no 'answer_start' that is an integer"):
        read(squad(tmp_path, (CONTEXT, [good | {"answers": [{"text": "Paris"}]}])))
    with pytest.raises(UserError, match="'question' is not valid text: it has a lone surrogate at character 3"):
        read(squad(tmp_path, (CONTEXT, [good | {"question": "Why\ud800?"}])))
    with pytest.raises(UserError, match="cannot be read"):
        read(str(tmp_path / "nothing.json"))
    (tmp_path / "text.json").write_text("Paris")
    with pytest.raises(UserError, match="is not JSON"):
        read(str(tmp_path / "text.json"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        read(str(tmp_path / "binary.json"))


def test_ids_can_be_numbers_and_files_can_begin_with_a_byte_order_mark(tmp_path):
    numbered = question(CONTEXT, "Paris", 0) | {"id": 62310}
    path = Path(squad(tmp_path, (CONTEXT, [numbered])))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for training in (True, False):
        (example,) = read_squad_examples(path, is_training=training, version_2_with_negative=False)
        assert example.qas_id == "62310"
    assert [each["id"] for each in questions(read_squad_json(path, answers_only=True))] == ["62310"]
    path = squad(tmp_path, (CONTEXT, [numbered, numbered | {"id": "62310"}]))
    with pytest.raises(UserError, match="two questions have the id '62310'"):
        read_squad_examples(path, is_training=False, version_2_with_negative=False)
    with pytest.raises(UserError, match="no 'id' that is a string"):
        read_squad_json(squad(tmp_path, (CONTEXT, [numbered | {"id": True}])))
