"""Writes small made-up reviews with labels, to try run_classifier.py without a download.

Each review has one label (`sentiment`), several labels (`topics`, joined by "|") and a number (`stars`).
"""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from configs.cli import flag, parse, run

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a was is we it this and , . film book meal hotel room evening again".split()
OPINIONS = {
    "negative": ["awful", "boring", "rude", "cold"],
    "neutral": ["average", "plain", "usual"],
    "positive": ["lovely", "great", "friendly", "warm"],
}
TOPICS = {"food": ["soup", "bread"], "price": ["cheap", "expensive"], "staff": ["waiter", "clerk"]}
STARS = {"negative": 1.0, "neutral": 3.0, "positive": 5.0}


@dataclass(frozen=True)
class SampleConfig:
    """Where to write, and how much."""

    output_dir: str = flag("reviews", "directory for train.csv, validation.csv, test.csv and vocab.txt")
    rows: int = flag(400, "number of training rows")


def review(rng: random.Random) -> tuple[str, str, str, str]:
    """The text, sentiment, topics and stars of one review."""
    sentiment = rng.choice(list(OPINIONS))
    topics = sorted(topic for topic in TOPICS if rng.random() < 0.4)
    parts = [f"the {rng.choice(WORDS[10:15])} was {rng.choice(OPINIONS[sentiment])}"]
    parts += [f"we had the {rng.choice(TOPICS[topic])}" for topic in topics]
    rng.shuffle(parts)
    return ", and ".join(parts) + ".", sentiment, "|".join(topics), f"{STARS[sentiment] - 0.5 * len(topics):.1f}"


def main() -> None:
    """Write the three files and a vocabulary for them."""
    config = parse(SampleConfig, description=__doc__ or "")
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    for name, count in (("train", config.rows), ("validation", 100), ("test", 20)):
        with (output / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "sentiment", "topics", "stars"])
            writer.writerows(review(rng) for _ in range(count))
    words = [*WORDS, "had", *(word for group in (*OPINIONS.values(), *TOPICS.values()) for word in group)]
    (output / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
