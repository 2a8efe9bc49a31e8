"""The sections of every training command's configuration."""

from __future__ import annotations

from typing import Protocol

from configs.distillation import DistillationFlags
from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags


class TrainingConfig(Protocol):
    """The part of a command's configuration that a training run uses."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def batch(self) -> BatchFlags: ...
    @property
    def optimizer(self) -> OptimizerFlags: ...
    @property
    def run(self) -> RunFlags: ...
    @property
    def device(self) -> DeviceFlags: ...
    @property
    def distillation(self) -> DistillationFlags: ...
