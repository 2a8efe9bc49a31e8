"""What every task's pipeline is: a row of text to examples, outputs to something small, these to an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from inference.runner import Example, Outputs
from inference.text import TextEncoder

Row = Mapping[str, Any]


class Pipeline(Protocol):
    """One task.

    Attributes:
        encoder: makes examples of texts.
        fields: the texts that a row has, the first of them always.
        outputs: the model's outputs that are needed.
        keeps_sequences: whether `reduce` keeps a vector for each token: fewer rows are then in flight.
    """

    encoder: TextEncoder
    fields: tuple[str, ...]
    outputs: tuple[str, ...]
    keeps_sequences: bool

    def encode(self, row: Row) -> list[Example]:
        """A row's examples, at least one; raises UserError for a row that cannot be answered."""
        ...

    def reduce(self, example: Example, outputs: Outputs) -> Any:
        """What must be kept of one example's outputs."""
        ...

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> Any:
        """The answer, made of plain Python values."""
        ...
