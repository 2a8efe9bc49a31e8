"""The pages about embeddings and new domains run unchanged, and the sample pairs are as described."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.embedding import read_groups
from examples import sample_pairs

ROOT = Path(__file__).resolve().parents[2]


def commands(page):
    """The shell blocks of a page, then its Python blocks, as scripts."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```(shell|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    shell = "set -e\n" + "\n".join(block for kind, block in blocks if kind == "shell")
    return shell, "\n".join(block for kind, block in blocks if kind == "python")


@pytest.mark.parametrize("page", ["embeddings.md", "new-domain.md"])
def test_all_commands_of_a_page_run(page, tmp_path):
    for path in ROOT.iterdir():  # the repository's root, whose files the page names
        if not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    shell, python = commands(page)
    for command in (["bash", "-c", shell], [sys.executable, "-c", python]):
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, result.stderr[-2000:]


def test_the_sample_has_pairs_scores_and_a_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sample_pairs.py", "--output_dir", str(tmp_path), "--rows", "37"])
    sample_pairs.main()
    train, dev, scored = (read_groups(tmp_path / f"{name}.csv") for name in ("train", "dev", "scored"))
    assert len(train) == 37 and train.names == ("question", "answer", "other_answer") and train.scores is None
    assert set(scored.scores.tolist()) == {0, 1, 2} and len(scored.names) == 2

    def topics(groups):
        return {
            (thing, room)
            for text in groups.texts[1]
            for thing in sample_pairs.THINGS
            for room in sample_pairs.ROOMS
            if {thing, room} <= set(text.split())
        }

    assert not topics(train) & (topics(dev) | topics(scored))
    assert len((tmp_path / "corpus.txt").read_text().splitlines()) == 100
