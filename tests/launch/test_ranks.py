"""Rank and size come from the launcher's environment."""

import pytest

from launch.ranks import rank, size


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"RANK": "-1"}, (0, 1)), ({"RANK": "2", "WORLD_SIZE": "3"}, (2, 3))],
)
def test_rank_and_size(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (rank(), size()) == expected
