"""A small corpus and vocabulary for the tests of this room."""

import numpy as np

from conversion.tokenizer_files import SPECIAL_TOKENS

WORDS = [f"w{chr(97 + i)}" for i in range(26)]
VOCAB = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *WORDS, *(f"##{word}" for word in WORDS[:9]), "."])}


def documents(count=23, seed=5):
    """Documents of sentences that know their place: no two sentences are equal."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        sentences = []
        for _ in range(rng.integers(1, 15)):
            words = rng.choice(WORDS, rng.integers(1, 12))
            tails = np.where(rng.random(len(words)) < 0.3, rng.choice(WORDS[:9], len(words)), "")
            sentences.append(" ".join(w + t for w, t in zip(words, tails, strict=True)))
        result.append(sentences)
    return result


def write_corpus(directory, count=23, seed=5):
    """(text file, vocabulary file)"""
    directory.mkdir(parents=True, exist_ok=True)
    text, vocab = directory / "text.txt", directory / "vocab.txt"
    text.write_text("\n\n".join("\n".join(document) for document in documents(count, seed)) + "\n")
    vocab.write_text("\n".join(VOCAB) + "\n")
    return text, vocab
