"""The first stage of `prepare_data.py pretraining`: turns each input piece into a token file (`token_store`)."""

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from configs.prepare import PretrainingDataConfig, TextFlags
from conversion.tokenizer_files import read_vocabulary
from data.preparation.duplicates import duplicates_share, hash_texts
from data.preparation.pieces import Result, run_pieces
from data.preparation.segmentation import Segmentation, WordMarks
from data.preparation.token_store import Corpus, token_dtype, write_piece
from data.text.documents import read_documents
from data.text.spans import Span, span_bytes
from data.tokenization import BulkTokenizer


def tokenize(
    config: PretrainingDataConfig, work: Path, pieces: Sequence[Sequence[Span]], vocab: dict[str, int]
) -> tuple[Corpus, dict[str, Any]]:
    """Tokenize all pieces; return the corpus and its statistics for the report."""
    rate = _sampling_rate(pieces)
    segmentation = None
    if config.segmentation_file:
        segmentation = Segmentation.indexed(Path(config.segmentation_file), work)
    tokenized = run_pieces(
        work, "tokenize", _tokenize_piece,
        [(piece, config.text, config.vocab_file, config.do_lower_case, rate, segmentation) for piece in pieces],
        flags=config.work, sizes=span_bytes(pieces), unit="B",
    )  # fmt: skip
    corpus = Corpus(
        files=tuple(_token_file(number) for number in range(len(tokenized))),
        token_bytes=np.dtype(token_dtype(max(vocab.values()) + 1, marked=segmentation is not None)).itemsize,
        tokens=tuple(result["tokens"] for result in tokenized),
        sentences=tuple(result["sentences"] for result in tokenized),
        documents=np.cumsum([0, *(result["documents"] for result in tokenized)]),
    )
    return corpus, _figures(work, tokenized)


def _tokenize_piece(
    work: Path, index: int, piece: Sequence[Span], text: TextFlags, vocab_file: str, do_lower_case: bool | None,
    rate: int, segmentation: Segmentation | None,
) -> Result:  # fmt: skip
    tokenizer, vocab = _bulk_tokenizer(vocab_file, do_lower_case)
    documents = list(read_documents(piece, text))
    lines = list(chain.from_iterable(documents))
    # A line's checksum decides whether it is sampled, so equal lines are sampled together.
    checksums = np.fromiter(map(zlib.crc32, map(str.encode, lines)), np.uint32, len(lines))
    sampled = compress(lines, checksums % rate == 0)
    (work / _sample_file(index)).write_bytes(hash_texts(sampled).tobytes())
    marks = WordMarks(segmentation, vocab) if segmentation else None
    size = max(vocab.values()) + 1
    counts = write_piece(work / _token_file(index), documents, tokenizer, size, vocab["[UNK]"], marks)
    capitals = sum(line[0].isupper() for line in lines)
    return counts | {"capitals": capitals, "frequent": _frequent(checksums, rate)}


def _frequent(checksums: np.ndarray, rate: int) -> dict[str, int]:
    """{checksum: count} of lines that are not in the sample but make up more than 1/200 of a piece."""
    values, counts = np.unique(checksums, return_counts=True)
    kept = (counts > len(checksums) / 200) & (counts > 1) & (values % rate != 0)
    return dict(zip(map(str, values[kept].tolist()), counts[kept].tolist(), strict=True))


def _sampling_rate(pieces: Sequence[Sequence[Span]]) -> int:
    """The sampling rate for duplicate lines: one in this many, about a million lines for any input size."""
    return 1 + sum(span_bytes(pieces)) // (100 << 20)


@lru_cache(maxsize=1)
def _bulk_tokenizer(vocab_file: str, do_lower_case: bool | None) -> tuple[BulkTokenizer, dict[str, int]]:
    """The tokenizer of this process, cached because it becomes faster with every word it has seen."""
    vocabulary = read_vocabulary(vocab_file, do_lower_case)
    return BulkTokenizer(vocabulary.ids, *vocabulary.rules), vocabulary.ids


def _figures(work: Path, tokenized: Sequence[Result]) -> dict[str, Any]:
    frequent = Counter[str]()
    for result in tokenized:
        frequent.update(result["frequent"])
    figures = {name: sum(result[name] for result in tokenized) for name in tokenized[0] if name != "frequent"}
    lines = max(1, figures["sentences"])
    figures["capitals_share"] = figures.pop("capitals") / lines
    sampled = duplicates_share([work / _sample_file(number) for number in range(len(tokenized))])
    others = 1 - sum(frequent.values()) / lines  # the fraction of lines that the sample represents
    figures["duplicate_lines_share"] = sampled * others + sum(count - 1 for count in frequent.values()) / lines
    return figures


def _token_file(number: int) -> str:
    return f"tokens-{number:06d}"


def _sample_file(number: int) -> str:
    return f"sample-{number:06d}"
