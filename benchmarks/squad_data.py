"""The speed of SQuAD's features and answers: `make bench`, or `python -m benchmarks.squad_data --help`.

Features are timed per core, from the JSON file to padded windows, against the stand-in for Google's converter, on the
same questions. By default the questions are about Python's documentation, and the vocabulary is made from their
contexts. The output is lines of `name value`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import google_squad_features as google
from benchmarks.google_tokenization import FullTokenizer
from configs.prepare import TextFlags, VocabConfig
from configs.squad import DecodingFlags, FeatureFlags
from data.preparation.vocabulary import make_vocab
from data.squad import SquadFeature, convert_examples_to_features, read_squad_examples, read_squad_json
from data.tokenization import load_tokenizer, load_vocab
from evaluation.squad_decoding import decode_predictions
from examples.sample_questions import articles

REFERENCE_QUESTIONS = 1000  # takes the stand-in several seconds


def main() -> None:
    """Print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad_file", help="a SQuAD 1.1 file, such as dev-v1.1.json")
    parser.add_argument("--vocab_file", help="an uncased vocabulary")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # figures are per core
    with tempfile.TemporaryDirectory() as directory:
        squad = arguments.squad_file or sample(Path(directory))
        vocab = arguments.vocab_file or vocabulary(Path(directory), squad)
        for name, value in (features_per_second(squad, vocab) | decoding_seconds(squad, vocab)).items():
            print(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}", flush=True)


def sample(directory: Path) -> str:
    """Write a file of questions."""
    squad = directory / "squad.json"
    squad.write_text(json.dumps({"version": "1.1", "data": articles(4000, seed=5, version_2=False)}), encoding="utf-8")
    return str(squad)


def vocabulary(directory: Path, squad: str) -> str:
    """Make a vocabulary from a file's contexts."""
    text, vocab = directory / "text.txt", directory / "vocab.txt"
    contexts = [p["context"] for article in read_squad_json(squad) for p in article["paragraphs"]]
    text.write_text("\n\n".join(contexts) + "\n", encoding="utf-8")
    make_vocab(VocabConfig(text=TextFlags((str(text),)), vocab_file=str(vocab), vocab_size=8000))
    return str(vocab)


def features_per_second(squad: str, vocab: str) -> dict[str, float]:
    """Windows per second on one core, of this project and of the stand-in."""
    google_tokenizer = FullTokenizer(load_vocab(vocab))
    started = time.process_time()
    reference = sum(
        1 for _ in google.convert(google.read_examples(squad, False, False)[:REFERENCE_QUESTIONS], google_tokenizer)
    )
    reference_rate = reference / (time.process_time() - started)
    started = time.process_time()
    examples = read_squad_examples(squad, is_training=False, version_2_with_negative=False)
    features = convert_examples_to_features(examples, FeatureFlags(vocab), num_workers=1)
    count = sum(1 for feature in features if feature.record(384))
    rate = count / (time.process_time() - started)
    return {
        "squad_features_per_second": rate,
        "squad_features_per_second_google_stand_in": reference_rate,
        "squad_features_ratio": rate / reference_rate,
    }


def decoding_seconds(squad: str, vocab: str) -> dict[str, float]:
    """Seconds to turn the logits of all windows into answers and n-best lists."""
    examples = read_squad_examples(squad, is_training=False, version_2_with_negative=False)
    features = list(convert_examples_to_features(examples, FeatureFlags(vocab)))
    logits = peaked_logits(features)
    started = time.perf_counter()
    decode_predictions(
        examples, features, logits[0], logits[1], load_tokenizer(vocab), DecodingFlags(), version_2_with_negative=False
    )
    seconds = time.perf_counter() - started
    return {
        "squad_features": len(features),
        "squad_decoding_seconds": seconds,
        "squad_decoding_seconds_10833_features": seconds * 10833 / len(features),  # the v1.1 dev set's number
    }


def peaked_logits(features: list[SquadFeature]) -> np.ndarray:
    """[2, features, 384]: noise with six likely answers in every window, like the output of a model."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, len(features), 384)).astype(np.float32) * 3
    for row, feature in enumerate(features):
        last = feature.doc_offset + len(feature.token_to_orig_map) - 1
        starts = rng.integers(feature.doc_offset, last + 1, 6)
        logits[0, row, starts] += 8
        logits[1, row, np.minimum(starts + rng.integers(0, 6, 6), last)] += 8
    return logits


if __name__ == "__main__":
    main()
