"""Pages that create their own files run unchanged: every block of shell and Python, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(shell|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What the page's last block prints.
PAGES = {
    "classification.md": ("negative", "neutral", "positive"),
    "tagging.md": ("PER", "LOC", "'entity': 'B-PER'"),
}


@pytest.mark.parametrize("page", PAGES)
def test_all_commands_of_a_page_run(page, tmp_path):
    for entry in ROOT.iterdir():  # the commands are run in the repository's root
        if not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # python3 is that of the environment
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    blocks = _BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"shell", "python"}
    for kind, content in blocks:
        command = ["bash", "-e", "-c", content] if kind == "shell" else [sys.executable, "-c", content]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{content}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    assert all(word in run.stdout for word in PAGES[page]), run.stdout
