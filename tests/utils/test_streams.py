"""Closed standard streams, and readers of the output that have gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.cli import run

ROOT = Path(__file__).resolve().parents[2]


def python(code, redirections="", **options):
    command = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, **options)


def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path):
    code = (
        "import os; from utils.streams import open_closed_streams; open_closed_streams()\n"
        f"with open({str(tmp_path / 'f')!r}, 'w') as file:\n"
        "    assert file.fileno() > 2; os.write(1, b'printed by the framework')\n"
        "    print('x', flush=True); file.write('own')"
    )
    assert python(code, "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "f").read_text() == "own"


@pytest.mark.parametrize("flush", [True, False])
def test_a_command_whose_output_is_closed_ends_as_other_programs_do(flush):
    code = f"from configs.cli import run\ndef main():\n    for i in range(10**6): print(i, flush={flush})\nrun(main)"
    command = f'"{sys.executable}" -c "$0" | head -1; echo "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(["bash", "-c", command, code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("0\n141\n", "")


def test_an_error_of_the_operating_system_is_one_sentence(capsys):
    def main():
        Path("/dev/null/x").read_bytes()

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: /dev/null/x: a part of the path is a file where a directory is needed: use another path.\n"
    )
