"""Only the command knows flags: the library names arguments, and the command turns them into flags."""

import ast
import re
from pathlib import Path

import pytest

import inference
from inference import ArgumentError, MissingVocabulary, UnsupportedTask
from inference.command import _in_flags
from utils.errors import UserError

PACKAGE = Path(inference.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_no_module_but_the_command_names_a_flag(path):
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    named = [text for text in texts if isinstance(text, str) and re.search(r"(^|\s)--\w", text)]
    assert not named or path.name in ("command.py", "precisions.py")  # these run an entry point


def test_an_argument_becomes_its_flag():
    error = ArgumentError("device", "tpu is unknown: use cpu.")
    assert str(error) == "device tpu is unknown: use cpu."
    assert str(_in_flags(error)) == "--device tpu is unknown: use cpu."
    assert (
        str(_in_flags(ArgumentError("max_predictions", "3 is too low."))) == "--max_predictions_per_seq 3 is too low."
    )


def test_other_errors_stay_as_they_are():
    error = UserError("the text is empty.")
    assert _in_flags(error) is error


@pytest.mark.parametrize("kind", [UnsupportedTask, MissingVocabulary])
def test_callers_can_tell_errors_apart(kind):
    with pytest.raises(ArgumentError) as caught:
        raise kind("task", "is wrong.")
    assert isinstance(caught.value, UserError) and caught.value.argument == "task"
