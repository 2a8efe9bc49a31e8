"""Communication between ranks, and this rank's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import oneflow as flow

from configs.training import DeviceFlags
from kernels.cuda import check_capability, driver_has_devices
from launch import ranks
from launch.job_shape import JobShape
from modeling.layout import split_rows
from utils.errors import UserError


@dataclass(frozen=True)
class World:
    """The job's shape as this rank sees it, and the device that this rank computes on.

    Every method is collective: all ranks must call it, in the same order.
    """

    shape: JobShape
    device: str = "cpu"  # or "cuda:I"

    def sum_over_batch(self, values: np.ndarray) -> np.ndarray:
        """The sum of `values` over the data-parallel ranks, on every rank; the ranks of a replica have equal values."""
        return self._sum_over_ranks(values) / self.shape.ranks_per_replica

    def sum_over_replica(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the ranks of this replica; all replicas have equal values."""
        sums = self._sum_over_ranks(np.array(values, np.float64)) / self.shape.data_parallel_size
        return [float(value) for value in sums]

    def sum_gradients(self, parameters: list[flow.nn.Parameter]) -> None:
        """Replaces each parameter's gradient with its sum over the data-parallel ranks."""
        if self.shape.data_parallel_size > 1:
            for parameter in (
                p for p in parameters if p.grad is not None
            ):  # for example, question answering does not use the pooler
                parameter.grad = flow._C.local_all_reduce(parameter.grad)

    def as_global(self, rows: flow.Tensor) -> flow.Tensor:
        """The global tensor of graph mode, with this rank's rows as its part."""
        return rows if self.shape.size == 1 else split_rows(rows, self.device, self.shape.ranks_per_replica)

    def gather_rows(self, rows: flow.Tensor) -> np.ndarray:
        """The rows [B, ...] of all data-parallel ranks, in the order of the ranks, on every rank."""
        return np.array(self.as_global(rows).numpy(), copy=True)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self._sum_over_ranks(np.array([float(flag)]))[0])

    def all_equal(self, value: float) -> bool:
        """Whether all ranks have the same value."""
        return len(np.unique(self._of_each_rank(value))) == 1

    def least(self, value: float) -> float:
        """The smallest of the ranks' values."""
        return float(self._of_each_rank(value).min())

    def of_the_first(self, value: float) -> float:
        """The first rank's value."""
        return float(self._of_each_rank(value)[0])

    def barrier(self) -> None:
        """Waits until all ranks have called this."""
        self._sum_over_ranks(np.zeros(1))

    def _of_each_rank(self, value: float) -> np.ndarray:
        return self._sum_over_ranks(np.eye(self.shape.size)[self.shape.rank] * value)

    def _sum_over_ranks(self, values: np.ndarray) -> np.ndarray:
        if self.shape.size == 1:
            return values
        local = flow.tensor(
            np.asarray(values, np.float64)
        )  # on the CPU, because it is small and independent of the model's stream
        return flow._C.local_all_reduce(local).numpy().reshape(np.shape(values))


def join(flags: DeviceFlags) -> World:
    """This rank's world: the shape that the launcher gave the job, and the device that the flags assign to this rank.

    Raises:
        UserError: the ranks do not form whole replicas, CUDA is requested but not usable, OneFlow has no code for the
            GPU, or there are fewer GPUs than ranks on this host.
    """
    size, per_replica = ranks.size(), flags.tensor_parallel
    if size % per_replica:
        raise UserError(
            f"--tensor_parallel {per_replica} does not divide the job's {size} ranks: start a multiple of it."
        )
    shape, usable = JobShape.current(per_replica), flow.cuda.is_available()
    wanted = flags.wants_cuda
    if wanted and not usable:
        raise UserError("--with_cuda True, but CUDA is not usable here: omit the flag to train on the CPU.")
    if wanted is None and not usable and driver_has_devices():
        raise UserError("this host has a GPU that OneFlow cannot use: update its driver, or pass --device cpu.")
    if wanted is False or not usable:
        return World(shape, "cpu")
    local_rank, count = flow.env.get_local_rank(), flow.cuda.device_count()  # the GPUs of --cuda_devices
    if local_rank >= count:
        named = (
            f"--cuda_devices {','.join(map(str, flags.cuda_devices))} has" if flags.cuda_devices else "this host has"
        )
        raise UserError(
            f"{named} {count} usable GPUs, and local rank {local_rank} has none: start one rank for each GPU."
        )
    check_capability(local_rank)
    return World(shape, f"cuda:{local_rank}")
