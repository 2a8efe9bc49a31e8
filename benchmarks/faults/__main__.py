"""Attacks every command and reader, and reports how many faults each kind of attack finds.

Kinds: damaged inputs (fuzz), SIGKILL at random moments (kill), mixtures of flags (flags), full disks, odd directories,
two runs at once and closed outputs (places), hostile files (hostile). The same --seed makes the same inputs. Faults are
written to build/faults/faults.txt; the exit code is 1 if there are any.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks.faults.flag_mixtures import parse_mixtures, run_mixtures
from benchmarks.faults.fuzzing import fuzz
from benchmarks.faults.hostile import attack_with_hostile_files
from benchmarks.faults.kills import kill
from benchmarks.faults.places import attack_places
from benchmarks.faults.report import Attack, write_report
from benchmarks.faults.samples import ROOT, make_samples
from configs.checks import above, at_least, threads
from configs.cli import flag, parse, run

KINDS = ("fuzz", "kill", "flags", "places", "hostile")
OUTPUT = ROOT / "build" / "faults"


@dataclass(frozen=True)
class FaultsConfig:
    """Which attacks to make, and for how long."""

    only: tuple[str, ...] = flag(KINDS, "kinds of attack", choices=KINDS)
    seconds: float = flag(
        600.0, "time for all kinds together; places and hostile files take about 5 minutes more", unit="seconds"
    )
    seed: int = flag(1, "seed of every random choice")
    workers: int | None = flag(None, "processes that read damaged inputs", default_text="one per core")

    def __post_init__(self) -> None:
        above(self, 0, "seconds")
        at_least(self, 0, "seed")
        threads(self, "workers")


def main() -> None:
    """Makes the attacks and writes the report."""
    config = parse(FaultsConfig, prog="python -m benchmarks.faults", description=__doc__)
    samples = make_samples(OUTPUT / "samples")
    bounded = [kind for kind in ("fuzz", "kill", "flags") if kind in config.only]
    share = config.seconds / max(1, len(bounded))
    attacks: list[Attack] = []
    if "fuzz" in config.only:
        attacks += fuzz(samples, share, config.seed, config.workers or os.cpu_count() or 1)
    if "kill" in config.only:
        attacks += kill(samples, OUTPUT / "kills", share, config.seed)
    if "flags" in config.only:
        attacks += [parse_mixtures(samples, share / 5, config.seed), run_mixtures(samples, share * 4 / 5, config.seed)]
    if "places" in config.only:
        attacks += attack_places(samples, OUTPUT / "places")
    if "hostile" in config.only:
        attacks.append(attack_with_hostile_files(samples, OUTPUT))
    if write_report(attacks, OUTPUT):
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
