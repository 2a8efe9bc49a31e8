"""One process at a time."""

import subprocess
import sys

import pytest

from utils.file_lock import lock_file

HOLDER = """
import sys
from pathlib import Path
from utils.file_lock import lock_file
print(lock_file(Path(sys.argv[1]), inherited=sys.argv[2] == "True"), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("inherited", [True, False])
def test_a_lock_is_held_until_its_process_ends(tmp_path, inherited):
    file = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(file), str(inherited)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        assert not lock_file(file, inherited=inherited)
    finally:
        holder.kill()
        holder.communicate()
    assert lock_file(file, inherited=inherited)
