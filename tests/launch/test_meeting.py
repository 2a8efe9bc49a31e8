"""Ranks find each other in bounded time, and refuse ranks that do not belong to their job."""

import socket
import time

import pytest

from tests.launch.jobs import LOCAL_RANK, WITH_SERVER, free_port, start_rank


@pytest.mark.parametrize(
    ("rank", "words"), [(0, "rank 1 of 2 did not connect to"), (1, "could not reach the first rank")]
)
def test_a_rank_that_finds_no_other_names_the_address_and_the_time(rank, words):
    port = free_port()
    process = start_rank(rank, 2, port, seconds=0.5)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in said and f"127.0.0.1:{port}" in said and "within 0.5 s" in said


def test_a_taken_port_and_ranks_of_another_job_are_reported():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start_rank(0, 2, taken.getsockname()[1], seconds=5)
        assert "--master_port" in process.communicate(timeout=30)[1]
    port = free_port()
    first, stray = start_rank(0, 2, port, seconds=5), start_rank(1, 3, port, seconds=1)
    for process in (first, stray):
        assert "does not belong to this job of 2" in process.communicate(timeout=30)[1]


def test_different_flags_are_refused_on_both_sides():
    port, flags = free_port(), {"lr": 0.1, "seed": 3, "betas": (0.9, 0.98)}
    started = [start_rank(0, 2, port, 20, flags=flags), start_rank(1, 2, port, 20, flags=flags | {"lr": 0.2})]
    for process in started:
        words = "rank 1 on 127.0.0.1 was started with --lr 0.2, the first rank with --lr 0.1: give every host the same"
        assert words in process.communicate(timeout=15)[1]
        assert process.returncode == 2


@pytest.mark.parametrize("numbers", [{1: 0}, {2: 1}])
def test_two_launchers_on_one_host_are_refused(numbers):
    port, size = free_port(), max(numbers) + 1
    started = [
        start_rank(rank, size, port, 20, before=LOCAL_RANK.format(numbers.get(rank, rank))) for rank in range(size)
    ]
    said = [process.communicate(timeout=15)[1] for process in started]
    assert all("were started by two launchers on one host, 127.0.0.1" in each for each in (said[0], said[-1]))
    assert {process.returncode for process in started} == {2}


def test_different_commands_are_refused_on_both_sides():
    port, named = free_port(), "import sys; sys.argv[0] = 'bin/{}'"
    started = [start_rank(rank, 2, port, 20, before=named.format(name)) for rank, name in enumerate(("a.py", "b.py"))]
    for process in started:
        assert (
            "rank 1 on 127.0.0.1 runs b.py, the first rank a.py: start the same" in process.communicate(timeout=15)[1]
        )
        assert process.returncode == 2


def test_a_flag_missing_on_the_first_rank_counts_as_different():
    port = free_port()
    started = [start_rank(rank, 2, port, 20, flags=flags) for rank, flags in enumerate(({}, {"lr": 0.2}))]
    for process in started:
        assert "with --lr 0.2, the first rank with --lr None" in process.communicate(timeout=15)[1]


def test_a_killed_rank_can_be_started_again_before_all_ranks_are_there():
    port = free_port()
    first, lost = start_rank(0, 3, port, 20, WITH_SERVER.format(port)), start_rank(1, 3, port, 20)
    time.sleep(1)
    lost.kill()
    lost.communicate()
    others = [start_rank(rank, 3, port, 20) for rank in (1, 2)]
    for process in (first, *others):
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_sigterm_during_the_meeting_is_reported():
    port = free_port()
    process = start_rank(0, 2, port, seconds=20)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    process.terminate()
    assert "error: rank 0 was stopped by SIGTERM while it waited" in process.communicate(timeout=30)[1]
    assert process.returncode != 0


def test_ranks_of_one_host_share_its_cores():
    port = free_port()
    code = f"""{WITH_SERVER.format(port)}
    import kernels
    os.sched_getaffinity = lambda process: range(12)
    print(kernels.configure()["OMP_NUM_THREADS"])
"""
    on_host = "import launch.meeting as meeting; meeting._cores = lambda: '{}'\n"
    started = [start_rank(rank, 3, port, 20, code, before=on_host.format(host)) for rank, host in enumerate("ABB")]
    assert [process.communicate(timeout=30)[0].strip() for process in started] == ["12", "6", "6"]
