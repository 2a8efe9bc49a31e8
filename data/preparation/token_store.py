"""A tokenized corpus on disk: one file per piece of the input, with random access to its documents.

A file contains the token ids (uint16 if the vocabulary allows it), then the first token of each sentence, then the
first sentence of each document (both uint32, aligned to 4 bytes, with the end as the last entry). Pages of mapped files
count as process memory, so they are released if the corpus is large.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.preparation.segmentation import WordMarks
from data.tokenization import BulkTokenizer

_ALIGNMENT = 4
_KEPT_BYTES = 64 << 20


class Corpus(NamedTuple):
    """The pieces and their sizes; `documents[i]` is the index of the first document of piece i."""

    files: tuple[str, ...]
    token_bytes: int  # of one id
    tokens: tuple[int, ...]
    sentences: tuple[int, ...]
    documents: np.ndarray  # int64 [pieces + 1]


def token_dtype(vocab_size: int, *, marked: bool) -> type[np.unsignedinteger]:
    """The smallest dtype for token ids, which are up to twice as large if they are marked (see `write_piece`)."""
    return np.uint16 if vocab_size * (2 if marked else 1) <= 1 << 16 else np.uint32


def write_piece(
    path: Path,
    documents: Iterable[Sequence[str]],
    tokenizer: BulkTokenizer,
    vocab_size: int,
    unknown_id: int,
    marks: WordMarks | None = None,
) -> dict[str, int]:
    """Tokenize documents into one file, skipping sentences without tokens and documents without sentences.

    With `marks`, `vocab_size` is added to the id of each token that continues a word.

    Returns:
        the number of documents, sentences, tokens, unknown tokens, and documents of a single sentence.
    """
    texts = list(documents)
    lines = list(chain.from_iterable(texts))
    ids, counts = tokenizer.encode(lines)
    unknown = int((ids == unknown_id).sum())
    if marks:
        ids = ids + vocab_size * marks(lines, ids, counts)
    owners = np.repeat(np.arange(len(texts)), list(map(len, texts)))[counts > 0]
    sentence_starts = np.append(0, np.cumsum(counts[counts > 0]))
    document_starts = np.append(np.flatnonzero(np.diff(owners, prepend=-1)), len(owners))
    data = ids.astype(token_dtype(vocab_size, marked=marks is not None)).tobytes()
    with path.open("wb") as file:
        file.write(data + bytes(-len(data) % _ALIGNMENT))
        for starts in (sentence_starts, document_starts):
            file.write(starts.astype(np.uint32).tobytes())
        file.flush()
        os.fsync(file.fileno())
    return {
        "documents": len(document_starts) - 1,
        "sentences": len(owners),
        "tokens": len(ids),
        "unknown": unknown,
        "single_sentence_documents": int((np.diff(document_starts) == 1).sum()),
    }


class Piece(NamedTuple):
    """One piece in memory."""

    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_starts: np.ndarray  # uint32 [sentences + 1]
    document_starts: np.ndarray  # uint32 [documents + 1]


class TokenStore:
    """Random access to a corpus."""

    def __init__(self, work: Path, corpus: Corpus) -> None:
        self.corpus = corpus
        self._work = work
        self._large = sum(corpus.tokens) * corpus.token_bytes > _KEPT_BYTES

    def piece(self, number: int) -> Piece:
        """A whole piece."""
        return self._arrays(number, (self._work / self.corpus.files[number]).read_bytes())

    def sentence_runs(
        self, documents: np.ndarray, shares: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of N documents, consecutive sentences with enough tokens, or up to the end of the document.

        Args:
            documents: int64 [N], document indices.
            shares: [N] in [0, 1), the first sentence: its index divided by the number of sentences.
            lengths: [N], the wanted number of tokens; the result always has at least one sentence.

        Returns:
            int64 [N] each: the piece, the first token, and the token after the last.
        """
        pieces = np.searchsorted(self.corpus.documents, documents, side="right") - 1
        begin, end = np.empty((2, len(documents)), np.int64)
        for number, mine in _groups(pieces):
            data = self._map(number)
            _, starts, document_starts = self._arrays(number, data)
            local = documents[mine] - self.corpus.documents[number]
            first, stop = (document_starts[local + i].astype(np.int64) for i in (0, 1))
            first += (shares[mine] * (stop - first)).astype(np.int64)
            begin[mine] = starts[first]
            reached = np.searchsorted(starts, (begin[mine] + np.maximum(lengths[mine], 1)).astype(starts.dtype))
            end[mine] = starts[np.minimum(reached, stop)]
            if self._large:
                data.madvise(mmap.MADV_DONTNEED)
        return pieces, begin, end

    def texts(self, pieces: np.ndarray, begin: np.ndarray, counts: np.ndarray) -> list[bytes]:
        """The token ids of N spans, as stored bytes; the arguments are int [N]."""
        texts = [b""] * len(pieces)
        size = self.corpus.token_bytes
        for number, mine in _groups(pieces):
            data = self._map(number)
            firsts, ends = begin[mine] * size, (begin[mine] + counts[mine]) * size
            for index, first, end in zip(mine.tolist(), firsts.tolist(), ends.tolist(), strict=True):
                texts[index] = data[first:end]
            if self._large:
                data.madvise(mmap.MADV_DONTNEED)
        return texts

    def _map(self, number: int) -> mmap.mmap:
        path = self._work / self.corpus.files[number]
        status = path.stat()
        return _map(path, status.st_ino, status.st_mtime_ns)

    def _arrays(self, number: int, data: mmap.mmap | bytes) -> Piece:
        tokens, sentences = self.corpus.tokens[number], self.corpus.sentences[number]
        ids = np.frombuffer(data, f"<u{self.corpus.token_bytes}", tokens)
        base = -(-ids.nbytes // _ALIGNMENT) * _ALIGNMENT
        starts = np.frombuffer(data, "<u4", offset=base)
        return Piece(ids, starts[: sentences + 1], starts[sentences + 1 :])


@lru_cache(maxsize=128)  # each entry keeps a file open, and some systems limit a process to 256
def _map(path: Path, inode: int, time: int) -> mmap.mmap:
    """A file's content; inode and time distinguish a replaced file from the cached one."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _groups(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct key, with its indices."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
    for first, end in pairwise(borders.tolist()):
        yield int(keys[order[first]]), order[first:end]
