"""Work in pieces: what happens to processes that are killed, and to those beside them."""

import os
import signal
import subprocess
import sys
import time

from configs.prepare import WorkFlags
from data.preparation import pieces
from data.preparation.pieces import run_pieces
from data.preparation.work_directory import open_work

KILLED_WORKER = """
import os, signal, sys
from pathlib import Path
from configs.prepare import WorkFlags
from data.preparation.pieces import WorkerLostError, run_pieces

def piece(work, index, large):
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}

arguments = [({str(i): i for i in range(30_000)},) for _ in range(40)]  # more than a pipe holds, each of them
try:
    run_pieces(Path(sys.argv[1]), "x", piece, arguments, flags=WorkFlags(num_workers=2), sizes=[1] * 40, unit="x")
except WorkerLostError:
    print("lost")
"""

KILLED_MAIN = """
import os, sys, time
from pathlib import Path
from configs.prepare import WorkFlags
from data.preparation.pieces import run_pieces

def piece(work, index):
    (work / f"pid-{os.getpid()}").touch()
    time.sleep(60)
    return {}

run_pieces(Path(sys.argv[1]), "x", piece, [()] * 4, flags=WorkFlags(num_workers=2), sizes=[1] * 4, unit="x")
"""


def test_a_killed_worker_ends_the_work_however_large_its_arguments(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WORKER, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "lost\n" and done.returncode == 0


def test_workers_end_with_the_process_that_started_them(tmp_path):
    main = subprocess.Popen([sys.executable, "-c", KILLED_MAIN, str(tmp_path)], stderr=subprocess.PIPE)
    while len(workers := [int(path.name[4:]) for path in tmp_path.glob("pid-*")]) < 2:
        time.sleep(0.05)
    main.kill()
    main.communicate(timeout=30)  # the workers hold the other end of its standard error
    assert not any(os.path.exists(f"/proc/{pid}/cwd") for pid in workers)


def test_two_processes_do_not_prepare_the_same_directory(tmp_path):
    code = "import sys\nfrom pathlib import Path\nfrom data.preparation.pieces import open_work\n"
    code += "open_work(Path(sys.argv[1]), {}, overwrite=False)\nprint('in', flush=True)\nsys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "in\n"
        refused = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], input="", capture_output=True, text=True, check=False
        )
        assert refused.returncode and "another process prepares" in refused.stderr
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert open_work(tmp_path, {}, overwrite=False)  # whoever is gone holds nothing


def test_what_is_gone_is_made_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(pieces, "_keep_freed_memory", lambda: None)

    def piece(work, index):
        made.append(index)
        return {"number": index}

    def run():
        return run_pieces(
            tmp_path, "x", piece, [()] * 3, flags=WorkFlags(num_workers=1), sizes=[1] * 3, unit="x",
            intact=lambda result: result["number"] != 1,
        )  # fmt: skip

    assert run() == run() == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert made == [0, 1, 2, 1]
