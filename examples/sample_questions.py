"""Writes questions in SQuAD's format, to try run_squad.py without a download.

The contexts are paragraphs of Python's documentation. A question is one of their sentences with a few words replaced by
"what"; these words are the answer. In version 2.0, every third question is about another context and has no answer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.squad import normalize_answer
from examples.demo import documentation

_SENTENCE = re.compile(r"[A-Z][^.!?]+[.!?](?=\s|$)")


def contexts() -> Iterator[str]:
    """Paragraphs of Python's documentation, of 40 to 200 words each."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")]):
        if not {"site-packages", "test", "idlelib", "lib2to3"} & set(path.parts):
            for text in documentation(path):
                words = text.split()
                for start in range(0, len(words), 120):
                    if len(words[start : start + 120]) >= 40:
                        yield " ".join(words[start : start + 120])


def articles(count: int, seed: int, version_2: bool) -> list[dict[str, Any]]:
    """The field `data` of a SQuAD file: up to `count` questions, with one paragraph per article."""
    rng = random.Random(seed)
    texts = list(dict.fromkeys(islice(contexts(), count)))
    rng.shuffle(texts)
    asked = [(text, [q for s in _SENTENCE.findall(text) if (q := cloze(s, text, rng))]) for text in texts]
    asked = [(text, questions) for text, questions in asked if questions]
    result: list[dict[str, Any]] = []
    made = 0
    for number, (text, questions) in enumerate(asked):
        others = asked[number - 1][1]
        qas = []
        for question, answer, start in questions[: count - made]:
            made += 1
            impossible = version_2 and made % 3 == 0
            qa = {
                "id": f"sample-{made}",
                "question": others[0][0] if impossible else question,
                "answers": [] if impossible else [{"text": answer, "answer_start": start}],
            }
            qas.append(qa | {"is_impossible": impossible} if version_2 else qa)
        if qas:
            result.append({"title": f"text {number}", "paragraphs": [{"context": text, "qas": qas}]})
    return result


def cloze(sentence: str, context: str, rng: random.Random) -> tuple[str, str, int] | None:
    """A question, its answer, and the answer's offset in the context; None if the sentence is too short or too long."""
    words = sentence.split(" ")
    if not 8 <= len(words) <= 30:
        return None
    length = rng.randint(1, 3)
    first = rng.randint(2, len(words) - length - 2)
    answer = " ".join(words[first : first + length]).strip(".,;:()\"'")
    before = " ".join(words[:first]) + " "
    start = context.find(sentence) + len(before)
    start = context.find(answer, start)
    if not normalize_answer(answer) or start < 0:
        return None
    return f"{before}what {' '.join(words[first + length :])}".rstrip(".!?") + "?", answer, start


def main() -> None:
    """Write train-VERSION.json and dev-VERSION.json, and the contexts as .txt for making a vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("sample_squad"), help="directory for the files (default: sample_squad)"
    )
    parser.add_argument("--version", choices=("v1.1", "v2.0"), default="v1.1", help="SQuAD version (default: v1.1)")
    parser.add_argument(
        "--count", type=int, default=4000, help="number of questions; a tenth goes to dev-VERSION.json (default: 4000)"
    )
    arguments = parser.parse_args()
    data = articles(arguments.count, seed=1, version_2=arguments.version == "v2.0")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", data[len(data) // 10 :]), ("dev", data[: len(data) // 10])):
        path = arguments.output_dir / f"{name}-{arguments.version}.json"
        version = arguments.version.removeprefix("v") if arguments.version == "v1.1" else arguments.version
        path.write_text(json.dumps({"version": version, "data": part}), encoding="utf-8")
        lines = (paragraph["context"] + "\n" for article in part for paragraph in article["paragraphs"])
        (arguments.output_dir / f"{name}-{arguments.version}.txt").write_text("\n".join(lines), encoding="utf-8")
        print(f"{path}: {sum(len(p['qas']) for a in part for p in a['paragraphs'])} questions")


if __name__ == "__main__":
    main()
