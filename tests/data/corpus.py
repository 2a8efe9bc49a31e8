"""A small corpus and vocabulary, and ways to read and prepare them, for the tests of data/."""

import numpy as np

from configs.cli import parse
from configs.prepare import PretrainingDataConfig, TextFlags
from conversion.tokenizer_files import SPECIAL_TOKENS
from data.preparation.pretraining import prepare
from data.text.documents import read_documents
from data.text.spans import plan_spans

WORDS = [f"w{chr(97 + i)}" for i in range(26)]
VOCAB = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *WORDS, *(f"##{word}" for word in WORDS[:9]), "."])}
S, P = 37, 7  # sequence length and predictions of `prepare_set`

PLAIN = "one a\none b\n\n \t\ntwo a\n\n\nthree a\nthree b\nthree c\n"
DOCUMENTS = [["one a", "one b"], ["two a"], ["three a", "three b", "three c"]]
WIKI = (
    '<doc id="1" url="u" title="A &amp; B">\nA &amp; B\n\n'
    "It is 3 &lt; 4. See Fig. 3 for more.\n\nMore by J. R. Smith.\n</doc>\n"
    '<doc id="2" url="u" title="Only a title">\nOnly a title\n\n</doc>\n'
    '<doc id="3" url="u" title="C">\nC\n\nLast one.\n</doc>\n'
)


def documents(count=23, seed=5):
    """Documents of sentences, no two of which are equal."""
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


def prepare_set(text, vocab, output, *more):
    """Runs `prepare_data.py pretraining`; returns the output directory."""
    flags = ["--input_file", text, "--vocab_file", vocab, "--output_dir", output, "--max_seq_length", S]
    flags += ["--max_predictions_per_seq", P, "--dupe_factor", 3, "--num_shards", 4, "--num_workers", 1, *more]
    prepare(parse(PretrainingDataConfig, list(map(str, flags))))
    return output


def content(directory):
    """{file: bytes}, without the files that name the directory."""
    named = ("dataset.json", "report.html")
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name not in named}


def text_flags(*files, **other):
    return TextFlags(input_file=tuple(map(str, files)), **other)


def read(file, split=False, piece=10**6, whole_files=False):
    """The documents of a file, read in pieces of this size."""
    return [
        document
        for spans in plan_spans({file: file.name}, "text", piece, 10**6, file.parent, whole_files=whole_files)
        for document in read_documents(spans, text_flags(file), split=split, whole_files=whole_files)
    ]
