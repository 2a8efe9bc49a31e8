"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in a flag, a file or the machine; its message is one sentence that names it and the way out."""
