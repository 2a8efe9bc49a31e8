"""Writes made-up questions with their answers, to try run_embedding.py without a download.

A question and its answer are about the same object in the same room, in different words; the hard negative is about the
same object in another room.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from configs.cli import flag, parse, run

ROOMS = "kitchen cellar attic garage garden bathroom hall office bedroom workshop".split()
THINGS = "lamp radio heater window door shelf clock mirror chair carpet".split()
QUESTIONS = (
    "what happened to the {} in the {} ?",
    "is the {} of the {} all right ?",
    "who looked after the {} in our {} ?",
)
ANSWERS = ("in the {1} , someone repaired the {0} .", "the {0} that is in the {1} works again .", "{1} : new {0} .")


@dataclass(frozen=True)
class SampleConfig:
    """Where to write, and how much."""

    output_dir: str = flag("pairs_sample", "directory for train.csv, dev.csv, scored.csv and corpus.txt")
    rows: int = flag(1500, "number of training rows", unit="rows")


def main() -> None:
    """Write the files; dev.csv and scored.csv contain combinations that are not in train.csv."""
    config = parse(SampleConfig, description=__doc__ or "")
    output, rng = Path(config.output_dir), random.Random(7)
    output.mkdir(parents=True, exist_ok=True)
    topics = [(thing, room) for thing in THINGS for room in ROOMS]
    rng.shuffle(topics)
    held_out, known = topics[:20], topics[20:]

    def text(templates: tuple[str, ...], topic: tuple[str, str]) -> str:
        return rng.choice(templates).format(*topic)

    def triple(topics: list[tuple[str, str]]) -> str:
        thing, room = rng.choice(topics)
        other = rng.choice([each for each in ROOMS if each != room])
        return f'"{text(QUESTIONS, (thing, room))}","{text(ANSWERS, (thing, room))}","{text(ANSWERS, (thing, other))}"'

    def scored() -> str:
        one, other = rng.choice(held_out), rng.choice(held_out)
        other = one if rng.random() < 0.3 else other
        score = sum(a == b for a, b in zip(one, other, strict=True))  # things in common
        return f'"{text(ANSWERS, one)}","{text(ANSWERS, other)}",{score}'

    files = {
        "train.csv": ["question,answer,other_answer", *(triple(known) for _ in range(config.rows))],
        "dev.csv": ["question,answer,other_answer", *(triple(held_out) for _ in range(60))],
        "scored.csv": ["sentence1,sentence2,score", *(scored() for _ in range(200))],
        "corpus.txt": [text(ANSWERS, topic) for topic in topics],
    }
    for name, lines in files.items():
        (output / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
