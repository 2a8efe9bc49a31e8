"""What a caller can get wrong, in terms of Python arguments; inference/command.py words it in flags."""

from __future__ import annotations

from utils.errors import UserError


class ArgumentError(UserError):
    """An argument that cannot be used.

    Attributes:
        argument: the argument's name.
        problem: what is wrong with it, and what to do; a sentence that continues the name.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument, self.problem = argument, problem


class UnsupportedTask(ArgumentError):
    """The model has no head for a task."""


class MissingVocabulary(ArgumentError):
    """The model has no vocabulary, and none was given."""
