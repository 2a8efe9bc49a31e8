"""Processes of a job meet in bounded time and end together; no framework is needed for that, but its launcher."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "oneflow.distributed.launch", "--nnodes", "1", "--node_rank", "0"]

MEMBER = """
import os, signal, socket, sys, time
from configs.cli import run
from launch import ranks
from utils.errors import UserError

def main():
    ranks.meet(join_timeout=20, stop_timeout=1)
    if ranks.rank() == 0:  # stands for the framework, which listens at the same place next
        global server
        server = socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    sys.stdout.write(f"rank {ranks.rank()} is process {os.getpid()}\\n")  # in one piece, unbuffered too
    sys.stdout.flush()
    kind = sys.argv[1]
    if kind == "late" and ranks.rank() == 1:
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
            if ranks.rank() == 0:
                print("a step", flush=True)
    elif kind != "late":
        if ranks.rank() == 1:
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


@pytest.fixture
def job(tmp_path):
    """A function that starts a job of two ranks; whatever is left of it is an error."""
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


def left_behind(process):
    """Whether processes of the job still live after seconds; they do no longer when this returns."""
    try:
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def lines_after(process):
    """What a job said until all of its processes were gone."""
    output, _ = process.communicate(timeout=60)
    return output.strip().splitlines()


def wait_until_met(process):
    met = 0
    while met < 2:
        met += process.stdout.readline().startswith("rank")


def test_a_rank_that_is_done_waits_for_the_others(job):
    process = job("late")
    lines = lines_after(process)
    assert process.returncode == 0
    assert sum(line.startswith("rank") for line in lines) == 2


def test_an_exception_is_the_last_word(job):
    process = job("raise")
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1].startswith("error: rank 1 on ") and lines[-1].endswith("ZeroDivisionError: division by zero")
    assert "Traceback (most recent call last):" in lines


@pytest.mark.parametrize(("kind", "words"), [("exit", "left early"), ("kill", "rank 1 (pid ")])
def test_a_rank_that_ends_ends_the_job(job, kind, words):
    process = job(kind)
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1].startswith("error: ") and words in lines[-1]


def test_a_mistake_of_all_ranks_is_told_once(job):
    process = job("mistake")
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1] == "error: --lr is wrong."
    assert sum("--lr is wrong" in line for line in lines) == 1


def test_a_reader_that_leaves_ends_the_job(job):
    process = job("talk")
    wait_until_met(process)
    process.stdout.close()  # as head does
    assert process.wait(30) != 0


@pytest.mark.parametrize(("kind", "number"), [("sleep", signal.SIGKILL), ("deaf", signal.SIGTERM)])
def test_ranks_end_with_their_launcher_within_the_stop_timeout(job, kind, number):
    process = job(kind)
    wait_until_met(process)
    time.sleep(0.3)
    process.send_signal(number)
    lines = lines_after(process)
    assert process.returncode != 0
    assert kind == "sleep" or "after the signal to stop" in lines[-1]


def alone(rank, size, port, seconds, code="pass", before="", mistake="", flags=None, address="127.0.0.1"):
    code = f"""{before}
import os, socket
from configs.cli import run
from launch import ranks
from utils.errors import UserError

def main():
    if {mistake!r}:
        raise UserError({mistake!r})
    ranks.meet({seconds}, 1, {flags or {}})
    {code}

run(main)
"""
    names = {
        "OMP_NUM_THREADS": 1,
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in names.items()}}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


LOCAL_RANK = "import os; os.environ['LOCAL_RANK'] = '{}'"
WITH_SERVER = """
    if ranks.rank() == 0:  # stands for the framework, which listens at the same place next
        global server
        server = socket.create_server(("127.0.0.1", {}))
"""


@pytest.mark.parametrize(("rank", "words"), [(0, "rank 1 of 2 did not come to"), (1, "could not reach the first rank")])
def test_a_rank_that_waits_in_vain_names_the_address_and_the_time(rank, words):
    port = free_port()
    process = alone(rank, 2, port, seconds=0.5)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in said and f"127.0.0.1:{port}" in said and "within 0.5 s" in said


def test_a_taken_port_and_ranks_of_another_job_are_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = alone(0, 2, taken.getsockname()[1], seconds=5)
        assert "--master_port" in process.communicate(timeout=30)[1]
    port = free_port()
    first, stray = alone(0, 2, port, seconds=5), alone(1, 3, port, seconds=1)
    for process in (first, stray):
        assert "does not fit into this job of 2" in process.communicate(timeout=30)[1]


def test_ranks_that_were_started_with_other_flags_are_refused_on_both_sides():
    port, flags = free_port(), {"lr": 0.1, "seed": 3, "betas": (0.9, 0.98)}
    started = [alone(0, 2, port, 20, flags=flags), alone(1, 2, port, 20, flags=flags | {"lr": 0.2})]
    for process in started:
        words = "rank 1 on 127.0.0.1 was started with --lr 0.2, the first rank with --lr 0.1: give every host the same"
        assert words in process.communicate(timeout=15)[1]
        assert process.returncode == 2


@pytest.mark.parametrize("numbers", [{1: 0}, {2: 1}])
def test_two_launchers_on_one_host_are_refused(numbers):
    port, size = free_port(), max(numbers) + 1
    started = [alone(rank, size, port, 20, before=LOCAL_RANK.format(numbers.get(rank, rank))) for rank in range(size)]
    said = [process.communicate(timeout=15)[1] for process in started]
    assert all("come from two launchers on one host, 127.0.0.1" in each for each in (said[0], said[-1]))
    assert {process.returncode for process in started} == {2}


def test_ranks_that_run_different_commands_are_refused_on_both_sides():
    port, named = free_port(), "import sys; sys.argv[0] = 'bin/{}'"
    started = [alone(rank, 2, port, 20, before=named.format(name)) for rank, name in enumerate(("a.py", "b.py"))]
    for process in started:
        assert (
            "rank 1 on 127.0.0.1 runs b.py, the first rank a.py: start the same" in process.communicate(timeout=15)[1]
        )
        assert process.returncode == 2


def test_a_flag_that_the_first_rank_does_not_know_differs_too():
    port = free_port()
    started = [alone(rank, 2, port, 20, flags=flags) for rank, flags in enumerate(({}, {"lr": 0.2}))]
    for process in started:
        assert "with --lr 0.2, the first rank with --lr None" in process.communicate(timeout=15)[1]


def test_who_comes_after_a_refusal_is_told_too():
    port = free_port()
    started = [alone(r, 3, port, 20, flags={"lr": 0.1 * (r + 1)}, address="127.0.0.2") for r in range(2)]
    assert "--lr 0.2" in started[1].communicate(timeout=15)[1]
    started.append(alone(2, 3, port, 20, address="127.0.0.2"))
    for process in (started[0], started[2]):
        assert "rank 1 on 127.0.0.1 was started with --lr 0.2" in process.communicate(timeout=15)[1]


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_mistake_of_one_host_is_told_to_those_that_wait(wrong):
    """Only for an address of other hosts: those of one host have one launcher, which ends them."""
    port = free_port()
    started = [alone(r, 2, port, 20, mistake="--x is wrong." * (r == wrong), address="127.0.0.2") for r in range(2)]
    said = [process.communicate(timeout=15)[1] for process in started]
    assert said[wrong] == "error: --x is wrong.\n"
    assert said[1 - wrong].startswith(f"error: rank {wrong} on ") and said[1 - wrong].endswith(": --x is wrong.\n")
    assert [process.returncode for process in started] == [2, 2]


def test_a_rank_may_be_started_once_more_while_another_is_awaited():
    port = free_port()
    first, lost = alone(0, 3, port, 20, WITH_SERVER.format(port)), alone(1, 3, port, 20)
    time.sleep(1)
    lost.kill()
    lost.communicate()
    others = [alone(rank, 3, port, 20) for rank in (1, 2)]
    for process in (first, *others):
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_signal_outside_training_is_named(job):
    process = job("sleep")
    wait_until_met(process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert "was stopped by SIGTERM while it was not training" in lines_after(process)[-1]
    assert process.returncode != 0


def test_a_rank_that_is_stopped_while_it_waits_says_so():
    port = free_port()
    process = alone(0, 2, port, seconds=20)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    process.terminate()
    assert "error: rank 0 was stopped by SIGTERM while it waited" in process.communicate(timeout=30)[1]
    assert process.returncode != 0


def test_cores_are_shared_by_the_ranks_of_one_host():
    port = free_port()
    code = f"""{WITH_SERVER.format(port)}
    import kernels
    os.sched_getaffinity = lambda process: range(12)
    print(kernels.configure()["OMP_NUM_THREADS"])
"""
    on_host = "import launch.ranks as ranks; ranks._cores = lambda: '{}'\n"
    started = [alone(rank, 3, port, 20, code, before=on_host.format(host)) for rank, host in enumerate("ABB")]
    assert [process.communicate(timeout=30)[0].strip() for process in started] == ["12", "6", "6"]
