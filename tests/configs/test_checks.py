"""Checks name the first wrong flag; NaN fails every one of them, an absent flag none."""

import os
from types import SimpleNamespace

import pytest

from configs.checks import MOST_THREADS_PER_CORE, above, at_least, at_most, given, threads
from utils.errors import UserError

NAN = float("nan")


@pytest.mark.parametrize("check", [at_least, at_most, above])
def test_an_absent_flag_passes_and_nan_fails(check):
    check(SimpleNamespace(a=None), 3, "a")
    with pytest.raises(UserError, match=r"--a must be .* 3, not nan"):
        check(SimpleNamespace(a=NAN), 3, "a")


@pytest.mark.parametrize(("check", "passing", "failing"), [(at_least, 3, 2), (at_most, 3, 4), (above, 4, 3)])
def test_bounds(check, passing, failing):
    check(SimpleNamespace(a=passing, b=passing), 3, "a", "b")
    with pytest.raises(UserError, match=f"--b must be .* 3, not {failing}"):
        check(SimpleNamespace(a=passing, b=failing), 3, "a", "b")


def test_a_missing_flag_is_named():
    given(SimpleNamespace(a="x"), "a")
    with pytest.raises(UserError, match="--b is missing"):
        given(SimpleNamespace(a="x", b=""), "a", "b")


def test_threads_are_limited_by_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    threads(SimpleNamespace(a=3 * MOST_THREADS_PER_CORE, b=None), "a", "b")
    for wrong in (0, 3 * MOST_THREADS_PER_CORE + 1):
        with pytest.raises(UserError, match="--a must be at"):
            threads(SimpleNamespace(a=wrong), "a")
