"""Whole words of Chinese text, from a file of segmented sentences (--segmentation_file).

Each Chinese character is a token of its own, so the vocabulary does not tell which characters form a word. The words
are found as in the reference code of Chinese-BERT-wwm (Cui et al. 2021), which marks all but the first character of a
word with ##: from left to right, the longest run of characters that is a word of the sentence. Only words of two or
more Chinese characters count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.preparation.duplicates import hash_texts
from data.tokenization import is_chinese
from utils.atomic_files import write_atomically
from utils.errors import UserError

_BYTES_AT_ONCE = 1 << 22
_OTHER = " "  # stands for a token that is not a Chinese character


@dataclass(frozen=True)
class Segmentation:
    """Segmented sentences on disk, which are looked up by their text without spaces.

    Attributes:
        file: one sentence per line, with spaces between its words.
        hashes, offsets: files of the work directory with the hash of each line without its spaces, uint64, sorted, and
            where that line begins, int64.
    """

    file: Path
    hashes: Path
    offsets: Path

    @classmethod
    def indexed(cls, file: Path, work: Path) -> Segmentation:
        """Writes the index of a file to the work directory, if it is missing; raises UserError for an invalid file."""
        own = cls(file, work / "segmentation-hashes", work / "segmentation-offsets")
        if not own.offsets.exists():
            hashes, offsets, first = [], [0], 0
            with file.open("rb") as lines:
                while block := lines.readlines(_BYTES_AT_ONCE):
                    texts = [_decoded(line, file, first + number) for number, line in enumerate(block, 1)]
                    hashes.append(hash_texts(map(_without_spaces, texts)))
                    offsets.extend((offsets[-1] + np.cumsum([len(line) for line in block])).tolist())
                    first += len(block)
            if not first:
                raise UserError(f"--segmentation_file {file} is empty: write one line per sentence of the input.")
            joined = np.concatenate(hashes)
            order = np.argsort(joined, kind="stable")
            write_atomically(own.hashes, joined[order].tobytes())
            write_atomically(own.offsets, np.array(offsets[:-1], np.int64)[order].tobytes())  # last: marks both as done
        return own

    def words(self, sentences: Sequence[str]) -> Iterator[frozenset[str]]:
        """The words of each sentence, without those that need no marks; empty if it has no two Chinese characters.

        Raises:
            UserError: a sentence with Chinese words is not in the file.
        """
        texts = [_without_spaces(sentence) for sentence in sentences]
        hashes, offsets = np.memmap(self.hashes, "<u8", "r"), np.memmap(self.offsets, np.int64, "r")
        wanted = hash_texts(texts)
        places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1).tolist()
        with closing(self.file.open("rb")) as lines:
            for text, hash_, place in zip(texts, wanted, places, strict=True):
                if not any(is_chinese(one) and is_chinese(other) for one, other in pairwise(text)):
                    yield frozenset()
                    continue
                line = ""
                if hashes[place] == hash_:
                    lines.seek(int(offsets[place]))
                    line = lines.readline().decode()
                if _without_spaces(line) != text:
                    raise UserError(
                        f"--segmentation_file {self.file} lacks the sentence {text[:40]!r}: write one line per "
                        "sentence of the input, with spaces between words (`prepare_data.py clean` splits sentences)."
                    )
                yield frozenset(word for word in line.split() if len(word) > 1 and all(map(is_chinese, word)))


class WordMarks:
    """Finds the tokens that continue a word."""

    def __init__(self, segmentation: Segmentation, vocab: Mapping[str, int]) -> None:
        self._segmentation = segmentation
        characters = [_OTHER] * (max(vocab.values()) + 1)
        for token, number in vocab.items():
            if len(token) == 1 and is_chinese(token):
                characters[number] = token
        self._characters = np.array(characters)

    def __call__(self, sentences: Sequence[str], ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """bool [tokens]: which tokens are Chinese characters after the first of a word.

        Args:
            sentences: the texts.
            ids: int [tokens], the tokens of all sentences.
            counts: int [sentences], the number of tokens of each.
        """
        text = "".join(self._characters[ids].tolist())  # a character for each token
        marks, end = np.zeros(len(ids), bool), 0
        for words, count in zip(self._segmentation.words(sentences), counts.tolist(), strict=True):
            marks[[end + place for place in continued(text[end : end + count], words)]] = True
            end += count
        return marks


def continued(characters: str, words: Collection[str]) -> list[int]:
    """The positions of the characters that continue a word, in a sentence with these words."""
    longest = max(map(len, words), default=0)
    found: list[int] = []
    start = 0
    while start < len(characters):
        lengths = range(min(len(characters) - start, longest), 1, -1)
        length = next((length for length in lengths if characters[start : start + length] in words), 1)
        found += range(start + 1, start + length)
        start += length
    return found


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _decoded(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UserError(f"--segmentation_file {file}, line {number}, is not UTF-8: convert the file.") from None
