"""The profiler's counts and its table."""

import oneflow as flow
import pytest

import kernels
from kernels import Profile

ours = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")


@ours
def test_calls_and_seconds_are_counted_inside_the_block():
    flow._C.matmul(flow.ones(5, 7), flow.ones(7, 3))
    with kernels.profile() as report:
        for _ in range(3):
            flow._C.matmul(flow.ones(5, 7), flow.ones(7, 3))
    flow._C.matmul(flow.ones(5, 7), flow.ones(7, 3))
    calls, seconds = report.ops["matmul"]
    assert calls == 3 and 0 < seconds <= report.wall_seconds
    with kernels.profile() as report:
        pass
    assert report.ops == {}


def test_the_table_ends_with_the_time_of_everything_else():
    rows = Profile(wall_seconds=0.5, ops={"matmul": (7, 0.3), "gelu": (5, 0.1)}).table().splitlines()
    assert [row.split() for row in rows] == [
        ["op", "calls", "ms", "share"],
        ["matmul", "7", "300.0", "60.0%"],
        ["gelu", "5", "100.0", "20.0%"],
        ["everything", "else", "100.0", "20.0%"],
    ]
