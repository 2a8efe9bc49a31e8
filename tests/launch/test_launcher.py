"""The launcher is recognised by its command line; other processes are left alone."""

import os
import subprocess
import sys

import pytest

from launch.launcher import is_launcher, terminate_launcher, wait_for_launcher


def start(*words):
    return subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)", *words],
                            stdout=subprocess.PIPE)  # fmt: skip


def test_only_the_launcher_is_terminated():
    launcher, other = start("oneflow.distributed.launch"), start()
    try:
        for process in (launcher, other):
            process.stdout.readline()
        assert terminate_launcher(other.pid) is None
        handle = terminate_launcher(launcher.pid)
        assert handle is not None
        wait_for_launcher(handle)
        os.close(handle)
        assert launcher.wait(5) < 0 and other.poll() is None
    finally:
        for process in (launcher, other):
            process.kill()
            process.communicate()


def test_a_process_that_does_not_exist():
    process = start()
    process.kill()
    process.communicate()
    assert terminate_launcher(process.pid) is None
    with pytest.raises(OSError):
        is_launcher(process.pid)
