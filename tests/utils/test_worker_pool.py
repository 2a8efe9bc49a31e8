"""Processes that share work: results, errors, and what happens when one is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from utils.errors import UserError
from utils.worker_pool import WorkerLostError, in_order, in_processes

KILLED_WORKER = """
import os, signal
from utils.worker_pool import WorkerLostError, in_processes

def call(number, large):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)

arguments = [(i, {str(i): i for i in range(30_000)}) for i in range(40)]  # each more than a pipe takes at once
try:
    list(in_processes(call, arguments, 2))
except WorkerLostError:
    print("lost")
"""

KILLED_PARENT = """
import os, sys, time
from pathlib import Path
from utils.worker_pool import in_processes

def call():
    (Path(sys.argv[1]) / f"pid-{os.getpid()}").touch()
    time.sleep(60)

list(in_processes(call, [()] * 4, 2))
"""


def square(number):
    if number == 5:
        raise UserError("five")
    if number == 6:
        raise ZeroDivisionError
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("fork", [True, False])
def test_results_belong_to_their_numbers(workers, fork):
    arguments = [(number,) for number in (4, 3, 0, 2, 1)]
    assert dict(in_processes(square, arguments, workers, fork=fork)) == {0: 16, 1: 9, 2: 0, 3: 4, 4: 1}
    assert list(in_order(in_processes(square, arguments, workers, fork=fork))) == [16, 9, 0, 4, 1]
    assert list(in_processes(square, [], workers, fork=fork)) == []


@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize(("number", "error"), [(5, UserError), (6, ZeroDivisionError), (7, WorkerLostError)])
def test_errors_are_raised_by_the_parent(number, error, fork):
    with pytest.raises(error) as caught:
        list(in_processes(square, [(1,), (number,), (2,)], 2, fork=fork))
    assert error is WorkerLostError or "in square" in str(caught.value.__cause__)


def test_an_abandoned_pool_ends_its_workers():
    results = in_processes(time.sleep, [(0,), (60,), (60,)], 2)
    assert next(results) == (0, None)
    results.close()  # returns only when the workers have ended


def test_a_killed_worker_ends_the_work_however_large_its_arguments():
    done = subprocess.run([sys.executable, "-c", KILLED_WORKER], capture_output=True, text=True, timeout=60)
    assert done.stdout == "lost\n" and done.returncode == 0


def large(number):
    return bytes(4 << 20)  # more than a pipe takes at once


def test_a_worker_killed_while_it_sends_a_result_is_lost():
    results = in_processes(large, [(number,) for number in range(6)], 2, fork=True)
    next(results)
    time.sleep(0.5)  # now both workers wait for the rest of their results to be read
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(WorkerLostError):
        list(results)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", KILLED_PARENT, str(tmp_path)], stderr=subprocess.PIPE)
    while len(workers := [int(path.name[4:]) for path in tmp_path.glob("pid-*")]) < 2:
        time.sleep(0.05)
    parent.kill()
    parent.communicate(timeout=30)  # the workers hold the other end of its standard error
    assert not any(os.path.exists(f"/proc/{pid}/cwd") for pid in workers)
