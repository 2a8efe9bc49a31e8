"""Ranks and devices: all that is known of other processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oneflow as flow

from configs.training import DeviceFlags
from modeling.layout import split_rows
from utils.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among those of the job, and the device it computes on."""

    rank: int
    size: int
    device: str  # "cpu" or "cuda:I"

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of each rank's `values`, on every rank."""
        if self.size == 1:
            return values
        local = flow.tensor(np.asarray(values, np.float64))  # on the CPU: small, and apart from the model's stream
        return flow._C.local_all_reduce(local).numpy().reshape(np.shape(values))

    def agree(self, wish: bool) -> bool:
        """Whether any rank wishes it, on every rank."""
        return bool(self.sum(np.array([float(wish)]))[0])

    def wait(self) -> None:
        """Goes on when all ranks have come here."""
        self.sum(np.zeros(1))

    def agrees(self, value: float) -> bool:
        """Whether all ranks have the same value; False on every rank where they do not."""
        each = self.sum(np.eye(self.size)[self.rank] * value)
        return len(np.unique(each)) == 1

    def gather_rows(self, tensor: flow.Tensor) -> np.ndarray:
        """All ranks' rows of `tensor` [B, ...], in the ranks' order, on every rank."""
        return np.array(self.split(tensor).numpy(), copy=True)

    def sum_gradients(self, parameters: list[flow.nn.Parameter]) -> None:
        """Replaces each parameter's gradient with the sum over ranks."""
        if self.size > 1:
            for parameter in (p for p in parameters if p.grad is not None):  # question answering pools nothing
                parameter.grad = flow._C.local_all_reduce(parameter.grad)

    def split(self, tensor: flow.Tensor) -> flow.Tensor:
        """This rank's rows as its part of the one tensor that graph mode sees."""
        return tensor if self.size == 1 else split_rows(tensor, self.device)


def join(flags: DeviceFlags) -> World:
    """This process's place in the job that the launcher (or nobody) started.

    Raises:
        UserError: CUDA is asked for and not usable, or a device number does not exist.
    """
    rank, size = flow.env.get_rank(), flow.env.get_world_size()
    usable = flow.cuda.is_available()
    wanted = {"cpu": False, "cuda": True}.get(flags.device or "", flags.with_cuda)
    if wanted and not usable:
        raise UserError("--with-cuda True, but CUDA is not usable here: leave the flag out to train on the CPU.")
    if wanted is False or not usable:
        return World(rank, size, "cpu")
    local_rank = flow.env.get_local_rank()
    devices = flags.cuda_devices or tuple(range(flow.cuda.device_count()))
    if local_rank >= len(devices) or max(devices) >= flow.cuda.device_count():
        raise UserError(f"--cuda_devices {devices} does not give local rank {local_rank} a device of its own.")
    return World(rank, size, f"cuda:{devices[local_rank]}")
