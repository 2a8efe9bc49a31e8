"""Attacks on every command and reader, with figures for each kind; see `python -m benchmarks.faults --help`."""
