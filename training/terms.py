"""Loss terms and metrics that a model computes for a batch, and the record features they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.reading.loader import Batch
from data.reading.packing import PACKED

INPUTS = ("input_ids", "input_mask", "segment_ids")  # the record features that every model reads
EXAMPLE_WEIGHTS = "example_weights"  # from the loader: 1 for a record, 0 for a padding row
TOTAL_LOSS = "total_loss"


@dataclass(frozen=True)
class Figure:
    """A metric that a model computes for a batch: the weighted mean of one value per item."""

    output: str  # its name in the model's outputs
    weights: str  # the batch array of item weights, whose sum divides the mean
    label: str = ""  # its name in training's log line and rows (default: `output`)
    in_log_line: bool = False
    evaluated_as: str = ""  # its name in an evaluation (default: `output`)

    @property
    def name(self) -> str:
        """Its name in training's log line and rows."""
        return self.label or self.output

    @property
    def evaluation_name(self) -> str:
        """Its name in an evaluation, without `eval_`."""
        return self.evaluated_as or self.output


@dataclass(frozen=True)
class LossTerm:
    """One summand of the total loss."""

    loss: Figure
    labels: tuple[str, ...]  # the record features that only this term reads
    others: tuple[Figure, ...] = ()  # other metrics that the model computes from the labels, such as accuracy
    parameters: tuple[str, ...] = ()  # prefixes of the names of parameters that only this term trains

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The loss, then the other metrics."""
        return (self.loss, *self.others)


def figures_of(terms: Iterable[LossTerm]) -> tuple[Figure, ...]:
    """The metrics of all terms, in order."""
    return tuple(figure for term in terms for figure in term.figures)


def features_of(inputs: Iterable[str], terms: Iterable[LossTerm]) -> tuple[str, ...]:
    """The record features that a model reads: its inputs, and the labels of these terms."""
    return (*inputs, *(label for term in terms for label in term.labels))


def select(batch: Batch, features: Iterable[str]) -> Batch:
    """The batch with only these record features, the weights of its rows and, if it is packed, its packed tokens."""
    kept = {*features, EXAMPLE_WEIGHTS, *PACKED}
    return {name: array for name, array in batch.items() if name in kept}
