"""A tokenized corpus on disk: a file per piece of the input, and any document of any piece by its number.

A piece's file holds its token ids (uint16 where the vocabulary allows it), then where each sentence begins among them,
then where each document begins among the sentences (both uint32, with the end as a last entry). Random access reads
just the bytes it needs: mapped files would count as memory.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tokenization import BulkTokenizer

_BATCH_SENTENCES = 4096
_OPEN_FILES = 512


class Corpus(NamedTuple):
    """Pieces with their sizes; `documents[i]` is the number of piece i's first document."""

    files: tuple[str, ...]
    token_bytes: int  # of one id
    tokens: tuple[int, ...]
    sentences: tuple[int, ...]
    documents: np.ndarray  # int64 [pieces + 1]


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest type of a token id on disk."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_piece(
    path: Path, documents: Iterable[Sequence[str]], tokenizer: BulkTokenizer, vocab_size: int, unknown_id: int
) -> dict[str, int]:
    """Tokenizes documents into one file; sentences without tokens, and documents without sentences, are left out.

    Returns:
        how many documents, sentences, tokens and unknown tokens it holds, and documents of one sentence.
    """
    dtype = token_dtype(vocab_size)
    batch: list[str] = []
    document_of: list[int] = []  # of each sentence in the batch
    lengths: list[np.ndarray] = []
    documents_of: list[np.ndarray] = []
    tokens = unknown = 0
    with path.open("wb", buffering=1 << 20) as file:

        def flush() -> None:
            nonlocal tokens, unknown
            ids, counts = tokenizer.encode(batch)
            file.write(ids.astype(dtype).tobytes())
            tokens += len(ids)
            unknown += int((ids == unknown_id).sum())
            lengths.append(counts[counts > 0])
            documents_of.append(np.array(document_of, np.int64)[counts > 0])
            batch.clear()
            document_of.clear()

        for number, document in enumerate(documents):
            batch.extend(document)
            document_of.extend([number] * len(document))
            if len(batch) >= _BATCH_SENTENCES:
                flush()
        flush()
        sentence_starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        owners = np.concatenate(documents_of)
        document_starts = np.append(np.flatnonzero(np.diff(owners, prepend=-1)), len(owners))
        for starts in (sentence_starts, document_starts):
            file.write(starts.astype(np.uint32).tobytes())
        file.flush()
        os.fsync(file.fileno())
    return {
        "documents": len(document_starts) - 1,
        "sentences": len(owners),
        "tokens": tokens,
        "unknown": unknown,
        "single_sentence_documents": int((np.diff(document_starts) == 1).sum()),
    }


class Piece(NamedTuple):
    """One piece in memory."""

    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_starts: np.ndarray  # uint32 [sentences + 1]
    document_starts: np.ndarray  # uint32 [documents + 1]


class TokenStore:
    """Reads a corpus."""

    def __init__(self, work: Path, corpus: Corpus) -> None:
        self.corpus = corpus
        self._work = work
        self._open: dict[int, int] = {}
        self._documents: list[int] = corpus.documents.tolist()
        self._document_starts: list[memoryview | None] = [None] * len(corpus.files)

    def piece(self, number: int) -> Piece:
        """A whole piece."""
        tokens, sentences = self.corpus.tokens[number], self.corpus.sentences[number]
        with (self._work / self.corpus.files[number]).open("rb") as file:
            ids = np.fromfile(file, f"<u{self.corpus.token_bytes}", tokens)
            sentence_starts = np.fromfile(file, "<u4", sentences + 1)
            return Piece(ids, sentence_starts, np.fromfile(file, "<u4"))

    def sentence_run(self, document: int, start: float, length: int) -> tuple[int, int, int]:
        """The sentences of a document from a random one on, until they hold `length` tokens or the document ends.

        Args:
            document: its number in the corpus.
            start: which sentence, as a share of the document from 0 to below 1.
            length: how many tokens are wanted; there is always at least one sentence.

        Returns:
            the piece, the first token, and the token after the last.
        """
        number = bisect_right(self._documents, document) - 1
        starts = self._document_starts[number]
        if starts is None:  # few bytes for each document: these stay in memory
            base = self._base(number) + 4 * (self.corpus.sentences[number] + 1)
            count = self._documents[number + 1] - self._documents[number] + 1
            starts = memoryview(os.pread(self._file(number), 4 * count, base)).cast("I")
            self._document_starts[number] = starts
        local = document - self._documents[number]
        first, last = starts[local], starts[local + 1]
        first += int(start * (last - first))
        # Each sentence has a token: so many sentences are enough.
        count = min(last - first, max(length, 1))
        ends = memoryview(os.pread(self._file(number), 4 * count + 4, self._base(number) + 4 * first)).cast("I")
        return number, ends[0], ends[min(bisect_left(ends, ends[0] + max(length, 1)), count)]

    def tokens(self, piece: int, begin: int, end: int) -> np.ndarray:
        """Some of a piece's token ids."""
        size = self.corpus.token_bytes
        data = os.pread(self._file(piece), (end - begin) * size, begin * size)
        return np.frombuffer(data, f"<u{size}")

    def _base(self, number: int) -> int:
        return self.corpus.tokens[number] * self.corpus.token_bytes

    def _file(self, number: int) -> int:
        descriptor = self._open.get(number)
        if descriptor is None:
            if len(self._open) >= _OPEN_FILES:  # draws are random: which one goes does not matter
                os.close(self._open.popitem()[1])
            descriptor = self._open[number] = os.open(self._work / self.corpus.files[number], os.O_RDONLY)
        return descriptor

    def close(self) -> None:
        """Closes its files."""
        while self._open:
            os.close(self._open.popitem()[1])
