"""Trains models as the flags describe."""

import modeling  # noqa: F401 - first, because it imports the framework without its startup messages
