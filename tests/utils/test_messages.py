"""Warnings are printed once per job."""

import pytest

from utils.messages import warn


@pytest.mark.parametrize(("rank", "expected"), [(None, 1), ("-1", 1), ("0", 1), ("1", 0)])
def test_only_the_first_rank_warns(monkeypatch, capsys, rank, expected):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    warn("the disk is nearly full.")
    assert capsys.readouterr().err == "warning: the disk is nearly full.\n" * expected
