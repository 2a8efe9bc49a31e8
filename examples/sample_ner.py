"""Writes a small made-up corpus with tagged names in CoNLL's format, to try run_ner.py without a download."""

import random
from dataclasses import dataclass
from pathlib import Path

from configs.cli import flag, parse, run

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {
    "PER": ["Anna", "Ben Smith", "Carla Diaz", "David"],
    "LOC": ["Paris", "New York", "Lima"],
    "ORG": ["Acme Corp", "Globex"],
}
PATTERNS = (
    "PER lives in LOC .",
    "PER and PER met in LOC yesterday .",
    "ORG opened an office in LOC .",
    "PER works for ORG .",
    "it rained in LOC , said PER of ORG .",
    "nobody came .",
)


@dataclass(frozen=True)
class SampleConfig:
    """Where to write, and how much."""

    output_dir: str = flag("names", "directory for train.conll, validation.conll, test.conll and vocab.txt")
    rows: int = flag(300, "number of training sentences")


def sentence(rng: random.Random) -> str:
    """The lines of one sentence: a word and its tag in IOB2."""
    lines = []
    for word in rng.choice(PATTERNS).split():
        if word in NAMES:
            parts = rng.choice(NAMES[word]).split()
            lines += [f"{part} {'I' if number else 'B'}-{word}" for number, part in enumerate(parts)]
        else:
            lines.append(f"{word} O")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the three files and a vocabulary for them."""
    config = parse(SampleConfig, description=__doc__ or "")
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    for name, count in (("train", config.rows), ("validation", 80), ("test", 10)):
        content = "\n".join(sentence(rng) for _ in range(count))
        (output / f"{name}.conll").write_text(content, encoding="utf-8")
    plain = [word for pattern in PATTERNS for word in pattern.split() if word not in NAMES]
    parts = [part.lower() for names in NAMES.values() for name in names for part in name.split()]
    words = list(dict.fromkeys([*plain, *parts]))
    (output / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
