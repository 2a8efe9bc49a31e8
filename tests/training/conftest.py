"""Jobs of two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def two_ranks():
    """A function that starts several_runs.py, with its list of runs, on two ranks."""

    def start(directory, runs, **environment):
        listing = directory / "runs.json"
        listing.write_text(json.dumps(runs))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        launcher = "-m oneflow.distributed.launch --nproc_per_node 2 --nnodes 1 --node_rank 0 --master_addr 127.0.0.1"
        script = Path(__file__).with_name("several_runs.py")
        return subprocess.Popen(
            [sys.executable, *launcher.split(), "--master_port", str(port), str(script), str(listing)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            start_new_session=True,
        )

    return start
