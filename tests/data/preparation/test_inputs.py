"""Input files, standard input, and an output directory below the input."""

import fcntl
import io
from contextlib import suppress
from unittest.mock import Mock

import pytest

from data.preparation import pretraining
from data.preparation.inputs import input_files
from tests.data.corpus import content, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_standard_input_is_identified_by_its_content(tmp_path, corpus, monkeypatch):
    text, vocab = corpus
    file = next(path for path in text.rglob("*") if path.is_file()) if text.is_dir() else text

    def run_on(data, *more):
        monkeypatch.setattr("sys.stdin", Mock(buffer=io.BytesIO(data)))
        return prepare_set("-", vocab, tmp_path / "out", *more)

    data = file.read_bytes()
    first = content(run_on(data))
    assert content(run_on(data)) == first
    half = data[: data.index(b"\n\n", len(data) // 2) + 2]
    with pytest.raises(UserError, match="the results of another input or vocabulary"):
        run_on(half)
    assert content(run_on(half, "--overwrite_output_dir")) != first
    with (tmp_path / "out/.stdin-0").open("wb", buffering=0) as other:  # another process copies its standard input
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"wa")
        with pytest.raises(UserError, match="another process is using"):
            run_on(data)
        assert (tmp_path / "out/.stdin-0").read_bytes() == b"wa"
    assert content(run_on(half)) != first


def test_the_input_is_not_overwritten(tmp_path, corpus):
    text, vocab = corpus
    inside = text if text.is_dir() else text.parent
    vocab = vocab.rename(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match="contains the input"):
        prepare_set(text, vocab, inside, "--overwrite_output_dir")


def test_results_below_the_input_are_not_input(tmp_path, corpus, monkeypatch):
    """`--input_file . --output_dir records`, interrupted and continued."""
    text, vocab = corpus
    vocab = vocab.rename(tmp_path / "vocab.txt")
    expected = content(prepare_set(text.parent, vocab, tmp_path / "elsewhere"))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(pretraining, "write_report", Mock(side_effect=KeyboardInterrupt))
        prepare_set(text.parent, vocab, text.parent / "records")
    assert (text.parent / "records/part-00000").exists()
    assert content(prepare_set(text.parent, vocab, text.parent / "records")) == expected
    prepare_set(text.parent, vocab, text.parent / "records")


def test_paths_globs_and_directories(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    a, b, c = (tmp_path / name for name in ("a.txt", "b.txt", "sub/c.txt"))
    assert input_files([str(tmp_path)]) == [a, b, c]
    assert input_files([str(tmp_path / "*.txt"), str(b), str(c)]) == [a, b, c]
    with pytest.raises(UserError, match=r"none\.txt does not exist"):
        input_files([str(tmp_path / "none.txt")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no file"):
        input_files([str(tmp_path / "empty")])
    (tmp_path / ".work").mkdir()
    with pytest.raises(UserError, match="interrupted"):
        input_files([str(a)])
