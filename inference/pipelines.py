"""The interface of a task's pipeline: row → examples → (model) outputs → reduced outputs → answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from inference.runner import Example, Outputs
from inference.text import TextEncoder

Row = Mapping[str, Any]


class Pipeline(Protocol):
    """One task.

    Attributes:
        fields: the names of a row's texts; the first one is required.
        outputs: the names of the model outputs it needs.
        keeps_sequences: whether `reduce` keeps a vector per token, so that fewer rows are processed at once.
    """

    encoder: TextEncoder
    fields: tuple[str, ...]
    outputs: tuple[str, ...]
    keeps_sequences: bool

    def encode(self, row: Row) -> list[Example]:
        """The row's examples, at least one; raises UserError if the row cannot be answered."""
        ...

    def reduce(self, example: Example, outputs: Outputs) -> Any:
        """The part of one example's outputs that `decode` needs."""
        ...

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> Any:
        """The answer, as plain JSON-serializable Python values."""
        ...
