"""Signals are collected inside, and what was there before comes back."""

import os
import signal

import pytest

from tests.training.fakes import ALONE
from training.stopping import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_collected_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    stop = StopSignals(ALONE.any)
    with stop:
        assert stop.active and not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert signal.getsignal(number) is before  # a second one acts as always
    assert signal.getsignal(number) is before and not stop.active
    assert (stop.stopped(7).step, stop.stopped(7).signal_number) == (7, number)
    assert str(stop.stopped(7)) == f"stopped by {number.name} after 7 steps; --resume continues."


def test_a_signal_that_reached_another_rank_counts_as_sigterm():
    assert StopSignals(lambda flag: True).stopped(3).signal_number == signal.SIGTERM


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    stop = StopSignals(ALONE.any)
    try:
        with stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_output_stops_the_run_as_a_signal_does():
    stop = StopSignals(ALONE.any)
    with stop:
        stop.output_closed()
        assert stop.requested()
    assert str(stop.stopped(7)) == ("stopped because the output pipe was closed, after 7 steps; --resume continues.")
