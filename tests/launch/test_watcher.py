"""The watcher ends its rank when another rank, the launcher or a signal says so. Needs the launcher, no framework."""

import signal
import time

import pytest

from tests.launch.jobs import lines_after, wait_until_met


@pytest.mark.parametrize(("kind", "words"), [("exit", "ended early"), ("kill", "rank 1 (pid ")])
def test_the_early_end_of_one_rank_ends_the_job(job, kind, words):
    process = job(kind)
    lines = lines_after(process)
    assert process.returncode != 0
    assert lines[-1].startswith("error: ") and words in lines[-1]


@pytest.mark.parametrize(("kind", "number"), [("sleep", signal.SIGKILL), ("deaf", signal.SIGTERM)])
def test_ranks_end_with_their_launcher_within_the_stop_timeout(job, kind, number):
    process = job(kind)
    wait_until_met(process)
    time.sleep(0.3)
    process.send_signal(number)
    lines = lines_after(process)
    assert process.returncode != 0
    assert kind == "sleep" or "after the stop signal" in lines[-1]


def test_sigterm_outside_training_is_reported(job):
    process = job("sleep")
    wait_until_met(process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert "was stopped by SIGTERM while it was not training" in lines_after(process)[-1]
    assert process.returncode != 0
