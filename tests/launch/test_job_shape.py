"""The job's shape: replicas of several ranks are fewer than the ranks."""

import pytest

from launch.job_shape import JobShape


def test_a_job_of_one_rank():
    shape = JobShape()
    assert shape.is_first and (shape.size, shape.data_parallel_size, shape.data_parallel_rank) == (1, 1, 0)


def test_ranks_of_one_replica_read_the_same_rows():
    shapes = [JobShape(rank, 6, ranks_per_replica=2) for rank in range(6)]
    assert [shape.data_parallel_rank for shape in shapes] == [0, 0, 1, 1, 2, 2]
    assert {shape.data_parallel_size for shape in shapes} == {3}
    assert [shape.is_first for shape in shapes] == [True] + [False] * 5


def test_the_launcher_sets_the_shape(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert JobShape.current() == JobShape(2, 5)


@pytest.mark.parametrize(("rank", "size", "ranks_per_replica"), [(5, 5, 1), (-1, 2, 1), (0, 5, 2), (0, 2, 0)])
def test_impossible_shapes(rank, size, ranks_per_replica):
    with pytest.raises(ValueError, match="ranks"):
        JobShape(rank, size, ranks_per_replica)
