"""Ranks end together: an error, a mistake or a closed output on one of them ends them all, with one message."""

import pytest

from tests.launch.jobs import free_port, lines_after, start_rank, wait_until_met


def test_a_finished_rank_waits_for_the_others(job):
    process = job("late")
    lines = lines_after(process)
    assert process.returncode == 0
    assert sum(line.startswith("rank") for line in lines) == 2


def test_an_uncaught_exception_ends_the_job_and_is_printed_last(job):
    process = job("raise")
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1].startswith("error: rank 1 on ") and lines[-1].endswith("ZeroDivisionError: division by zero")
    assert "Traceback (most recent call last):" in lines


def test_a_mistake_of_all_ranks_is_printed_once(job):
    process = job("mistake")
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1] == "error: --lr is wrong."
    assert sum("--lr is wrong" in line for line in lines) == 1


def test_a_closed_output_pipe_ends_the_job(job):
    process = job("talk")
    wait_until_met(process)
    process.stdout.close()  # as head does
    assert process.wait(30) != 0


def test_a_rank_that_starts_after_a_refusal_receives_the_reason():
    port = free_port()
    started = [start_rank(r, 3, port, 20, flags={"lr": 0.1 * (r + 1)}, address="127.0.0.2") for r in range(2)]
    assert "--lr 0.2" in started[1].communicate(timeout=15)[1]
    started.append(start_rank(2, 3, port, 20, address="127.0.0.2"))
    for process in (started[0], started[2]):
        assert "rank 1 on 127.0.0.1 was started with --lr 0.2" in process.communicate(timeout=15)[1]


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_mistake_on_one_host_is_sent_to_the_waiting_ranks(wrong):
    """Only if the address may belong to another host: ranks of one host are ended by their launcher."""
    port = free_port()
    started = [
        start_rank(r, 2, port, 20, mistake="--x is wrong." * (r == wrong), address="127.0.0.2") for r in range(2)
    ]
    said = [process.communicate(timeout=15)[1] for process in started]
    assert said[wrong] == "error: --x is wrong.\n"
    assert said[1 - wrong].startswith(f"error: rank {wrong} on ") and said[1 - wrong].endswith(": --x is wrong.\n")
    assert [process.returncode for process in started] == [2, 2]
