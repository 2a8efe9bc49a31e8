"""The commands of the page about sweeps, with real runs."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs `make setup EXTRAS=sweep`")
ROOT = Path(__file__).resolve().parents[2]


def test_the_commands_of_the_page_run(tmp_path):
    for path in ROOT.iterdir():  # the repository's root, whose files the page names
        if not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    setup, example = re.findall(
        r"^```shell\n(.*?)^```$", (ROOT / "docs/sweeps.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert setup == "make setup EXTRAS=sweep\n"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    command = ["bash", "-ec", example.replace("--trials 6", "--trials 3")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-2000:]
    output = tmp_path / "sweep_output"
    rows = list(csv.DictReader((output / "trials.csv").open()))
    assert [row["state"] for row in rows] == 3 * ["complete"]
    best = max(rows, key=lambda row: float(row["median"]))["trial"]
    assert f"its checkpoints are in {output / best}\n" in result.stdout
    assert [path.parents[1].name for path in output.glob("trial-*/seed-42/best")] == [best]
