"""Errors that the user can correct, and escaping of text in messages."""


class UserError(Exception):
    """A mistake in a flag, a file or the machine. The message is a sentence or two: what is wrong and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Text with its control characters escaped, but for line feeds: names in files may hold terminal commands."""
    return "".join(c if c.isprintable() or c in " \n" else c.encode("unicode_escape").decode() for c in text)
