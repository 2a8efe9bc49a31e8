"""The work directory: interruptions, locks."""

import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest

from data.preparation import work_directory
from data.preparation.work_directory import open_work
from tests.data.corpus import content, prepare_set
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("many_pieces")


def test_interrupted_at_the_first_and_the_last_moment(tmp_path, corpus, monkeypatch):
    """Before the plan is written, and while a finished preparation removes its leftovers."""
    prepare_set(*corpus, tmp_path / "one")
    undisturbed = content(tmp_path / "one")
    for function in ("write_atomically", "_remove_leftovers"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(work_directory, function, Mock(side_effect=KeyboardInterrupt))
            prepare_set(*corpus, tmp_path / "two")
        prepare_set(*corpus, tmp_path / "two")
        assert content(tmp_path / "two") == undisturbed
        shutil.rmtree(tmp_path / "two")


def test_two_processes_do_not_prepare_the_same_directory(tmp_path):
    code = "import sys\nfrom pathlib import Path\nfrom data.preparation.work_directory import open_work\n"
    code += "open_work(Path(sys.argv[1]), {}, overwrite=False)\nprint('in', flush=True)\nsys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "in\n"
        refused = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], input="", capture_output=True, text=True, check=False
        )
        assert refused.returncode and "another process is using" in refused.stderr
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert open_work(tmp_path, {}, overwrite=False)  # a dead process holds no lock


def test_the_flags_of_another_preparation_are_named(tmp_path):
    plan = {"command": "pretraining", "example": {"max_seq_length": 7, "masking": "static"}, "input": ["a"]}
    open_work(tmp_path, plan, overwrite=False)
    other = {**plan, "example": {"max_seq_length": 37, "masking": "static"}}
    with pytest.raises(UserError, match=r"an unfinished preparation with other flags: --max_seq_length \(was 7\); use"):
        open_work(tmp_path, other, overwrite=False)
    with pytest.raises(UserError, match="an unfinished preparation with another input or vocabulary; use"):
        open_work(tmp_path, {**plan, "input": ["b"]}, overwrite=False)
