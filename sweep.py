"""Searches for the best values of a training command's flags."""

from configs.cli import parse, run
from configs.sweep import SweepConfig


def main() -> None:
    config = parse(SweepConfig, description=__doc__ or "")
    from sweeps.search import search  # imports the parsers of all training commands

    search(config)


if __name__ == "__main__":
    run(main)
