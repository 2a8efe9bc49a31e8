import utils.environment  # noqa: F401  ends with a sentence if Python is too old for the modules of this package
