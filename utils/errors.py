"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in a flag, a file or the machine. The message names it, what was found and what to do."""
