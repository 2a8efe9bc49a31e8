"""A job of two ranks under OneFlow's launcher."""

import os
import subprocess

import pytest

from tests.launch.jobs import LAUNCH, MEMBER, ROOT, free_port, left_behind


@pytest.fixture
def job(tmp_path):
    """A function that starts a job of two ranks. A process that outlives the test is an error."""
    script = tmp_path / "member.py"
    script.write_text(MEMBER)
    started = []

    def start(kind):
        words = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
        process = subprocess.Popen(
            [*LAUNCH, *words, str(script), kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    assert not any(left_behind(process) for process in started)
