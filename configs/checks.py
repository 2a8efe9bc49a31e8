"""What many flags must fulfil."""

from __future__ import annotations

from utils.errors import UserError


def at_least(flags: object, least: float, *names: str) -> None:
    """Raises UserError for the first of these flags that is given and below `least`."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, not {value}.")
