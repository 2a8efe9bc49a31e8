"""Averages of a model's weights over the updates of a run: exponential (--ema_decay) or uniform (--swa_start)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import oneflow as flow

from data.reading.loader import Batch
from modeling.layout import place_like, to_numpy
from modeling.pretrained import PretrainedModel
from training.optimizer import trained_parameters
from training.step import Metrics, TrainStep
from utils.errors import UserError

# The flag of each average. Its metrics are named `eval_ema_…`, its arrays in a checkpoint's optimizer state `….ema`.
FLAGS = {"ema": "--ema_decay", "swa": "--swa_start"}


class WeightAverage:
    """A training step that also maintains an average of the trained weights.

    After update n, counted from 1, `average = average + share(n) * (weights - average)`. The average starts with the
    weights before the first update. It costs a copy of the weights.

    Args:
        step: makes the updates.
        model: its trained weights are averaged.
        kind: a key of `FLAGS`.
        share: the share of the weights in the average after update n.
    """

    def __init__(self, step: TrainStep, model: PretrainedModel, kind: str, share: Callable[[int], float]) -> None:
        self.kind = kind
        self._step, self._share, self._suffix, self._updates = step, share, f".{kind}", 0
        self._parameters = dict(trained_parameters(model))
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @classmethod
    def exponential(cls, step: TrainStep, model: PretrainedModel, decay: float) -> WeightAverage:
        """The exponential moving average with the decay `d = min(decay, (1 + n) / (10 + n))`, so that the first weights
        do not dominate short runs (TensorFlow's ExponentialMovingAverage with num_updates)."""
        return cls(step, model, "ema", lambda n: 1 - min(decay, (1 + n) / (10 + n)))

    @classmethod
    def uniform(cls, step: TrainStep, model: PretrainedModel, first: int) -> WeightAverage:
        """The mean of the weights after update `first` and each later one (stochastic weight averaging, Izmailov et al.
        2018); until then, the weights themselves."""
        return cls(step, model, "swa", lambda n: 1 / max(1, n - first + 1))

    def __call__(self, batch: Batch) -> Metrics:
        metrics = self._step(batch)
        self._updates += 1
        share = self._share(self._updates)
        with flow.no_grad():
            for name, average in self._averages.items():
                average.add_((self._parameters[name].detach() - average) * share)
        return metrics

    def first_bad_update(self) -> int | None:
        """The wrapped step's."""
        return self._step.first_bad_update()

    def state(self) -> dict[str, np.ndarray]:
        """The state of the wrapped step, and {"<parameter>.<kind>": average}."""
        averages = {f"{name}{self._suffix}": to_numpy(average) for name, average in self._averages.items()}
        return self._step.state() | averages

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        """Restores the state of the wrapped step, which must hold no averages; the next update is number `step`."""
        self._step.load_state(state, step)
        self._updates = step

    def load_averages(self, averages: Mapping[str, np.ndarray], source: str) -> None:
        """Restores the averages of a checkpoint; without any, they continue from the weights.

        Args:
            averages: {"<parameter>.<kind>": array}, and other arrays, which are ignored.
            source: the checkpoint, for messages.

        Raises:
            UserError: a parameter's average is missing or has another shape.
        """
        found = {name: averages.get(f"{name}{self._suffix}") for name in self._averages}
        if all(array is None for array in found.values()):
            return
        for name, array in found.items():
            average = self._averages[name]
            if array is None or array.shape != tuple(average.shape):
                raise UserError(
                    f"{source}: the average of {name} is missing or has a different shape: omit {FLAGS[self.kind]}."
                )
            _assign(average, array)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Replaces the model's weights with the averages inside the block."""
        with flow.no_grad():
            own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            self._give(self._averages)
        try:
            yield
        finally:
            with flow.no_grad():
                self._give(own)

    def figures(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The metrics of an evaluation with averaged weights, such as `eval_ema_X` instead of `eval_X`."""
        return {f"eval_{self.kind}_{name.removeprefix('eval_')}": value for name, value in figures.items()}

    def _give(self, weights: Mapping[str, flow.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])


def _assign(tensor: flow.Tensor, array: np.ndarray) -> None:
    """Copies an array, equal on all ranks, into a tensor, which may be global."""
    tensor.copy_(place_like(flow.tensor(array, dtype=tensor.dtype), tensor))
