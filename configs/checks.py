"""Checks shared by several flags."""

from __future__ import annotations

import os

from utils.errors import UserError

# Limits far above any realistic use, so that a typo causes a clear error instead of a crash inside the framework.
MOST_SEED = (1 << 63) - 1  # OneFlow's generators take a signed 64-bit number
MOST_ROWS = 1 << 16  # of one rank's batch
MOST_STEPS = 10**7  # ten times the longest published pretraining; a table stores the learning rate of every update
MOST_TOKENS = 1 << 16  # of a sequence
MOST_THREADS_PER_CORE = 8


def at_least(flags: object, least: float, *names: str) -> None:
    """Raises UserError for the first of these flags that is given and below `least`, or NaN."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name} must be at least {least}, not {value}.")


def at_most(flags: object, most: float, *names: str) -> None:
    """Raises UserError for the first of these flags that is given and above `most`, or NaN."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not value <= most:
            raise UserError(f"--{name} must be at most {most}, not {value}.")


def above(flags: object, bound: float, *names: str) -> None:
    """Raises UserError for the first of these flags that is given and not above `bound`."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not value > bound:
            raise UserError(f"--{name} must be above {bound}, not {value}.")


def given(flags: object, *names: str) -> None:
    """Raises UserError for the first of these flags that is missing."""
    for name in names:
        if not getattr(flags, name):
            raise UserError(f"--{name} is missing: see --help.")


def threads(flags: object, *names: str) -> None:
    """Raises UserError for the first of these flags with more threads or processes than this machine can run."""
    at_least(flags, 1, *names)
    cores = os.cpu_count() or 1
    for name in names:
        value = getattr(flags, name)
        if value is not None and value > MOST_THREADS_PER_CORE * cores:
            raise UserError(
                f"--{name} must be at most {MOST_THREADS_PER_CORE * cores} ({MOST_THREADS_PER_CORE} for each of this "
                f"machine's {cores} cores), not {value}."
            )


def check_seeds(seeds: int, first: int, do_train: bool) -> None:
    """Raises UserError if --seeds is below 1 or too large, or above 1 without training."""
    most = min(1000, MOST_SEED - first + 1)
    if not 1 <= seeds <= most:
        raise UserError(f"--seeds must be at {'least 1' if seeds < 1 else f'most {most}'}, not {seeds}.")
    if seeds > 1 and not do_train:
        raise UserError("--seeds above 1 cannot be combined with --do_train False: remove one of them.")


def local(flags: object, *names: str) -> None:
    """Raises UserError for the first of these output paths that is a URL; only local paths are supported."""
    for name in names:
        value = getattr(flags, name)
        if value and "://" in value:
            raise UserError(f"--{name} {value} is a URL: use a local directory.")
