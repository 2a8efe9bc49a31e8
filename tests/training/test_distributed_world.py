"""What one rank knows of the others, and which sums count replicas instead of ranks."""

import numpy as np
import oneflow as flow
import pytest

from configs.training import DeviceFlags
from launch.job_shape import JobShape
from training.distributed import World, join
from utils.errors import UserError


def test_with_one_rank_every_sum_is_the_value():
    world = World(JobShape(), "cpu")
    values = np.array([3.0, 0.1])
    assert world.sum_over_batch(values).tolist() == values.tolist()
    assert world.any(True) and not world.any(False) and world.all_equal(7)
    world.barrier()
    rows = flow.tensor([[1.0], [2.0]])
    assert world.as_global(rows) is rows and world.gather_rows(rows).tolist() == [[1.0], [2.0]]


def test_a_sum_over_the_batch_counts_each_replica_once(monkeypatch):
    monkeypatch.setattr(World, "_sum_over_ranks", lambda self, values: values * self.shape.size)
    values = np.array([3.0, 5.0])
    assert World(JobShape(1, 6), "cpu").sum_over_batch(values).tolist() == [18.0, 30.0]
    assert World(JobShape(1, 6, ranks_per_replica=2), "cpu").sum_over_batch(values).tolist() == [9.0, 15.0]


def test_ranks_that_differ_are_found(monkeypatch):
    monkeypatch.setattr(World, "_sum_over_ranks", lambda self, values: np.append(values[:1], 4.0))
    assert World(JobShape(0, 2), "cpu").all_equal(4.0)
    assert not World(JobShape(0, 2), "cpu").all_equal(5.0)


@pytest.mark.skipif(flow.cuda.is_available(), reason="CUDA is usable here")
def test_cuda_that_is_not_there_is_an_error():
    assert join(DeviceFlags()).device == "cpu"
    for flags in (DeviceFlags(with_cuda=True), DeviceFlags(device="cuda")):
        with pytest.raises(UserError, match="CUDA is not usable here"):
            join(flags)
