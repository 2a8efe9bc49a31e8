"""Frozen layers, and learning rates that decrease from the head to the embeddings.

The depth of a parameter is 0 for the embeddings, `i` for encoder layer `i` counted from 1, and the number of layers
plus 1 for everything above the encoder layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import oneflow as flow

from configs.training import OptimizerFlags
from data.reading.loader import Batch
from modeling.pretrained import PretrainedModel
from training.step import Metrics, TrainStep
from utils.errors import UserError

_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")


def depth(name: str, layers: int) -> int:
    """The depth of the parameter with this name in a model with this number of encoder layers."""
    layer = _LAYER.search(name)
    if layer:
        return int(layer[1]) + 1
    return 0 if re.search(r"(?:^|\.)embeddings\.", name) else layers + 1


def freeze(model: PretrainedModel, flags: OptimizerFlags) -> None:
    """Excludes the embeddings and the lowest layers from training, as the flags say.

    Raises:
        UserError: the model has fewer layers.
    """
    layers = model.config.num_hidden_layers
    if flags.freeze_layers > layers:
        raise UserError(f"--freeze_layers {flags.freeze_layers} is more than the model's {layers} layers: lower it.")
    if not (flags.freeze_embeddings or flags.freeze_layers):
        return
    for name, parameter in model.named_parameters():
        if depth(name, layers) <= flags.freeze_layers:
            parameter.requires_grad_(False)


class ScaledUpdates:
    """A training step whose updates are scaled per layer, each by `decay` times the factor of the layer above.

    The update of each parameter is scaled after it is made, so that this works in both modes, with every optimizer, and
    with the gradients' norm taken over all parameters. It costs a copy of the scaled parameters.

    Args:
        step: performs the updates.
        model: the trained model.
        decay: the factor between adjacent layers.
        share: returns the common factor of all layers, before each update.
    """

    def __init__(
        self, step: TrainStep, model: PretrainedModel, decay: float = 1.0, share: Callable[[], float] = lambda: 1.0
    ) -> None:
        self._step, self._share = step, share
        top = model.config.num_hidden_layers + 1
        self._rates = [
            (parameter, decay ** (top - depth(name, top - 1)))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    def __call__(self, batch: Batch) -> Metrics:
        share = self._share()
        scaled = [(parameter, rate * share) for parameter, rate in self._rates if rate * share != 1]
        with flow.no_grad():
            before = [parameter.detach().clone() for parameter, _ in scaled]
        metrics = self._step(batch)
        with flow.no_grad():
            for (parameter, rate), old in zip(scaled, before, strict=True):
                parameter.copy_(old + rate * (parameter - old))
        return metrics

    def first_bad_update(self) -> int | None:
        """The first bad update of the wrapped step."""
        return self._step.first_bad_update()

    def state(self) -> dict[str, np.ndarray]:
        """The state of the wrapped step."""
        return self._step.state()

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        """Restores the state of the wrapped step."""
        self._step.load_state(state, step)
