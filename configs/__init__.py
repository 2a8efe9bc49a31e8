import utils  # noqa: F401  first, because it refuses a Python that is too old for the other modules
