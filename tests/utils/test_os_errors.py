"""Errors of the operating system are sentences."""

import errno
import os

import pytest

from utils.os_errors import loop_sentence, memory_sentence, os_error_sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EROFS, "x", "a"), "a: the file system is read-only: use a path that can be written to."),
        (OSError(errno.EXDEV, "Invalid link", "a"), "a: Invalid link."),
        (OSError("no number"), "no number."),
        (FileNotFoundError(errno.ENOENT, "x", "a", None, "b"), "b: it does not exist: check the path; if it existed"),
        (IsADirectoryError(errno.EISDIR, "x", b"a"), "a: it is a directory where a file is needed"),
        (OSError(errno.EINVAL, "Invalid argument", 7), "Invalid argument."),
    ],
)
def test_the_sentence_names_path_and_remedy(error, sentence):
    assert os_error_sentence(error).startswith(sentence)


def test_a_long_name_is_shortened():
    with pytest.raises(OSError) as raised:
        os.stat("x" * 3000)
    assert len(os_error_sentence(raised.value)) < 200 and "the name is too long" in os_error_sentence(raised.value)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (ImportError("lib.so: failed to map segment from shared object"), True),
        (ImportError("lib.so: cannot allocate memory in static TLS block"), True),
        (ImportError("No module named 'x'"), False),
        (RuntimeError("CUDA out of memory"), True),
    ],
)
def test_errors_of_memory_are_known(error, is_memory):
    sentence = memory_sentence(error)
    assert (sentence is not None) == is_memory and (not sentence or sentence.startswith("memory ran out: free"))


def test_a_circle_of_links_is_known(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    try:
        (tmp_path / "loop").resolve(strict=True)
    except (RuntimeError, OSError) as error:  # Python 3.10 raises the former
        sentence = loop_sentence(error) or os_error_sentence(error)
    assert "loop" in sentence and "its symbolic links form a cycle: use another path." in sentence
    assert loop_sentence(RuntimeError("another")) is None
