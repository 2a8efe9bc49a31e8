"""Exact search for the texts of a corpus that are most similar to a text.

Shapes: `N` texts of the corpus, `H` dimensions of a vector.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from evaluation.retrieval import most_similar
from inference.errors import ArgumentError
from inference.feature_extraction import FeatureExtraction
from inference.pipelines import Row
from inference.runner import Example
from utils.errors import UserError

_MOST_LINE_BYTES = 16 << 20
_BLOCK_BYTES, _BLOCK_ROWS = 32 << 20, 1 << 15  # the rows limit the scores of a block, a number for each query and row


@dataclass(frozen=True)
class Corpus:
    """The texts to search, which stay in their file.

    Attributes:
        path: a file with one text, or one JSON object with `text`, per line; or vectors (.npy).
        vectors: in the order of the texts.
        starts: int64 [N], the start of each text's line; None if there are only vectors.
    """

    path: Path
    vectors: VectorFile
    starts: np.ndarray | None

    def answer(self, number: int, score: float) -> dict[str, Any]:
        """`score`, `number` (the text's index, from 0) and, if there is one, its `text` and `id`."""
        answer: dict[str, Any] = {"score": score, "number": number}
        if self.starts is None:
            return answer
        with open(self.path, "rb") as file:
            file.seek(int(self.starts[number]))
            return answer | _row(file.readline(_MOST_LINE_BYTES), self.path, number)


@dataclass
class Search(FeatureExtraction):
    """Returns the `top_k` most similar texts of a corpus, best first, by the cosine of the vectors.

    Without a corpus, returns the vector of the text, which is used to embed a corpus.
    """

    pooling: str = "mean"
    corpus: Corpus | None = None
    top_k: int = 10

    fields: tuple[str, ...] = ("text",)

    def search(self, vectors: dict[int, np.ndarray]) -> dict[int, list[dict[str, Any]]]:
        """Answers many queries in one pass over the corpus; vectors and answers have the same keys."""
        assert self.corpus is not None
        if not vectors:
            return {}
        found, scores = most_similar(np.stack(list(vectors.values())), self.corpus.vectors.blocks(), self.top_k)
        return {
            number: [self.corpus.answer(*pair) for pair in zip(found[row].tolist(), scores[row].tolist(), strict=True)]
            for row, number in enumerate(vectors)
        }

    def decode(self, row: Row, examples: Sequence[Example], reduced: Sequence[Any]) -> Any:
        return reduced[0]


class VectorFile:
    """Vectors [N, H] in a file, which are read block by block, so that memory does not grow with N.

    Args:
        file: the file with the vectors; by default a temporary one that `append` writes to.
        offset: the start of the vectors, in bytes.
        count, size, dtype: N, H and the data type.
    """

    def __init__(
        self, file: BinaryIO | None = None, offset: int = 0, count: int = 0, size: int = 0, dtype: Any = np.float32
    ) -> None:
        self._file: BinaryIO = file or cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        self._offset, self._count, self.size, self._dtype = offset, count, size, np.dtype(dtype)

    def __len__(self) -> int:
        return self._count

    def append(self, vector: Sequence[float]) -> None:
        """Adds a vector [H] at the end."""
        array = np.asarray(vector, np.float32)
        self._file.write(array.tobytes())
        self._count, self.size = self._count + 1, len(array)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the vectors in blocks [n, H]."""
        self._file.seek(self._offset)
        row = self.size * self._dtype.itemsize
        rows = max(1, min(_BLOCK_BYTES // row, _BLOCK_ROWS))
        for first in range(0, self._count, rows):
            content = self._file.read(min(rows, self._count - first) * row)
            yield np.frombuffer(content, self._dtype).reshape(-1, self.size)

    def save(self, path: Path) -> None:
        """Writes the vectors as an .npy file."""
        with open(path, "wb") as target:
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, self.size)}
            np.lib.format.write_array_header_1_0(target, header)
            for block in self.blocks():
                target.write(block.tobytes())


def open_vectors(path: Path, dimensions: int) -> Corpus:
    """A corpus of vectors in an .npy file; raises ArgumentError if it is not an array [N, dimensions] of numbers."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArgumentError("corpus_path", f"{path} cannot be read as an .npy file: {error}.") from None
    if stored.ndim != 2 or not len(stored) or stored.dtype.kind != "f" or not stored.flags.c_contiguous:
        raise ArgumentError(
            "corpus_path",
            f"{path} contains {stored.dtype} {list(stored.shape)}, not numbers with one row per vector.",
        )
    if stored.shape[1] != dimensions:
        raise ArgumentError(
            "corpus_path",
            f"{path} has vectors of {stored.shape[1]} numbers, but the model produces {dimensions}: embed the corpus "
            "with this model and the same number of dimensions.",
        )
    count, size = stored.shape
    vectors = VectorFile(open(path, "rb"), stored.offset, count, size, stored.dtype)  # noqa: SIM115
    return Corpus(path, vectors, None)


def corpus_rows(path: Path, starts: list[int]) -> Iterator[dict[str, Any]]:
    """Yields {text} of each non-blank line, and appends its offset to `starts`.

    Raises:
        ArgumentError: the file cannot be read, or a line is not usable; the message gives the line.
    """
    try:
        file: BinaryIO = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise ArgumentError("corpus_path", f"{path} cannot be read: {error.strerror}.") from None
    with file:
        start = number = 0
        while line := file.readline(_MOST_LINE_BYTES):
            number += 1
            if line.strip():
                row = _row(line, path, number)
                starts.append(start)
                yield {"text": row["text"]}
            start += len(line)
    if not starts:
        raise ArgumentError("corpus_path", f"{path} contains no texts.")


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The `text` of a line and, in a JSON object, its `id` (or `_id`)."""
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} line {number} is not valid UTF-8.") from None
    if not text.lstrip().startswith("{"):
        return {"text": text}
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text}
    if not isinstance(row.get("text"), str):
        raise UserError(f"{path} line {number} has no field 'text': add it.")
    names = [name for name in ("id", "_id") if name in row]
    return {"text": row["text"]} | ({"id": row[names[0]]} if names else {})


def embedded(path: Path, vectors: Iterable[Any], starts: list[int]) -> Corpus:
    """The corpus of a file's rows, given their vectors in order; raises UserError if a row has none."""
    stored = VectorFile()
    for number, vector in enumerate(vectors, 1):
        if isinstance(vector, UserError):
            raise UserError(f"{path}, text {number}: {vector}")
        stored.append(vector)
    return Corpus(path, stored, np.array(starts, np.int64))
