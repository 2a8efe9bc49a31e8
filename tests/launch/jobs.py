"""Jobs of small processes that meet as ranks do, without the framework."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "oneflow.distributed.launch", "--nnodes", "1", "--node_rank", "0"]

MEMBER = """
import os, signal, socket, sys, time
from configs.cli import run
from launch.meeting import meet
from launch.ranks import rank
from utils.errors import UserError

def main():
    meet(join_timeout=20, stop_timeout=1)
    if rank() == 0:  # stands for the framework, which listens at the same address next
        global server
        server = socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    sys.stdout.write(f"rank {rank()} is process {os.getpid()}\\n")  # in one piece, unbuffered too
    sys.stdout.flush()
    kind = sys.argv[1]
    if kind == "late" and rank() == 1:
        time.sleep(1)
    elif kind == "mistake":
        raise UserError("--lr is wrong.")
    elif kind == "deaf":
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        while True:
            time.sleep(0.1)
    elif kind == "talk":
        while True:
            time.sleep(0.01)
            if rank() == 0:
                print("a step", flush=True)
    elif kind != "late":
        if rank() == 1:
            time.sleep(0.5)
            {"raise": lambda: 1 / 0, "exit": lambda: sys.exit(0), "kill": lambda: os.kill(os.getpid(), 9),
             "sleep": lambda: None}[kind]()
        while True:
            time.sleep(60)

run(main)
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def left_behind(process):
    """Whether processes of the job still run after 10 seconds; kills them."""
    try:
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def lines_after(process):
    """The output of a job up to the end of all its processes."""
    output, _ = process.communicate(timeout=60)
    return output.strip().splitlines()


def wait_until_met(process):
    met = 0
    while met < 2:
        met += process.stdout.readline().startswith("rank")


def start_rank(number, size, port, seconds, code="pass", before="", mistake="", flags=None, address="127.0.0.1"):
    code = f"""{before}
import os, socket
from configs.cli import run
from launch.meeting import meet
from launch.ranks import rank
from utils.errors import UserError

def main():
    if {mistake!r}:
        raise UserError({mistake!r})
    meet({seconds}, 1, {flags or {}})
    {code}

run(main)
"""
    names = {
        "OMP_NUM_THREADS": 1,
        "RANK": number,
        "WORLD_SIZE": size,
        "LOCAL_RANK": number,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in names.items()}}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


LOCAL_RANK = "import os; os.environ['LOCAL_RANK'] = '{}'"
WITH_SERVER = """
    if rank() == 0:  # stands for the framework, which listens at the same address next
        global server
        server = socket.create_server(("127.0.0.1", {}))
"""
