"""Errors about Python arguments; inference/command.py rewrites them in terms of flags."""

from __future__ import annotations

from utils.errors import UserError


class ArgumentError(UserError):
    """An argument is invalid.

    Attributes:
        argument: the argument's name.
        problem: what is wrong and what to do; a sentence that follows the argument's name.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument, self.problem = argument, problem


class UnsupportedTask(ArgumentError):
    """The model has no head for a task."""


class MissingVocabulary(ArgumentError):
    """The model has no vocabulary, and none was given."""
