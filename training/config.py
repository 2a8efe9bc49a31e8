"""The sections that the configuration of every training command has."""

from __future__ import annotations

from typing import Protocol

from configs.model import ModelFlags
from configs.training import BatchFlags, DeviceFlags, OptimizerFlags, RunFlags


class TrainingConfig(Protocol):
    """What a training run reads of its command's configuration."""

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
