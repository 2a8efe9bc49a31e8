"""Writes a small made-up data set in the format of RTE, to try run_glue.py without a download.

Each row asks whether the first sentence entails the second one.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from configs.cli import flag, parse, run

NAMES = "anna ben carla david elena farid grace hugo".split()
PLACES = "paris rome cairo lima oslo delhi quito".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["lives", "in", "is", "at", "home", "not", "."]


@dataclass(frozen=True)
class SampleConfig:
    """Where to write, and how much."""

    output_dir: str = flag("glue_sample", "directory for RTE/*.tsv and vocab.txt")
    rows: int = flag(600, "number of training rows")


def main() -> None:
    """Write the data set and a vocabulary for it."""
    config = parse(SampleConfig, description=__doc__ or "")
    output = Path(config.output_dir)
    (output / "RTE").mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    for name, count in (("train", config.rows), ("dev", 200), ("test", 50)):
        lines = ["index\tsentence1\tsentence2" + ("" if name == "test" else "\tlabel")]
        for row in range(count):
            who, place = rng.choice(NAMES), rng.choice(PLACES)
            follows = rng.random() < 0.5
            said = "is at home in" if follows else "is not at home in"
            fields = [str(row), f"{who} lives in {place} .", f"{who} {said} {place} ."]
            lines.append("\t".join(fields + ([] if name == "test" else [("not_", "")[follows] + "entailment"])))
        (output / "RTE" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "vocab.txt").write_text("\n".join([*SPECIAL, *NAMES, *PLACES, *WORDS]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
