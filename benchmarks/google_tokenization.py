"""A stand-in for the tokenizer that came with BERT: pure Python, one character at a time, one word at a time.

Written from its rules (google-research/bert, tokenization.py), with the same work per text, so that what is built on
it is as fast and as right as Google's: benchmarks measure against it, and tests compare with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

_CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class BasicTokenizer:
    """Text → words: cleaned, lower-cased, split at white space, punctuation and Chinese characters."""

    def __init__(self, do_lower_case: bool = True) -> None:
        self.do_lower_case = do_lower_case

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        cleaned = []
        for char in text:
            if ord(char) in (0, 0xFFFD) or _is_control(char):
                continue
            cleaned.append(" " if _is_whitespace(char) else char)
        spaced = []
        for char in "".join(cleaned):
            point = ord(char)
            if any(first <= point <= last for first, last in _CJK_BLOCKS):
                spaced += [" ", char, " "]
            else:
                spaced.append(char)
        words = []
        for word in "".join(spaced).split():
            if self.do_lower_case:
                word = self._without_accents(word.lower())
            words += self._split_at_punctuation(word)
        return " ".join(words).split()

    def _without_accents(self, word: str) -> str:
        kept = []
        for char in unicodedata.normalize("NFD", word):
            if unicodedata.category(char) != "Mn":
                kept.append(char)
        return "".join(kept)

    def _split_at_punctuation(self, word: str) -> list[str]:
        parts: list[list[str]] = []
        new_part = True
        for char in word:
            if _is_punctuation(char):
                parts.append([char])
                new_part = True
            else:
                if new_part:
                    parts.append([])
                new_part = False
                parts[-1].append(char)
        return ["".join(part) for part in parts]


class FullTokenizer:
    """Text → WordPieces, the longest that the vocabulary has first."""

    def __init__(self, vocab: Mapping[str, int], do_lower_case: bool = True) -> None:
        self.vocab = vocab
        self.basic_tokenizer = BasicTokenizer(do_lower_case)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text."""
        return [piece for word in self.basic_tokenizer.tokenize(text) for piece in self._pieces(word)]

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """Each piece's number."""
        return [self.vocab[token] for token in tokens]

    def _pieces(self, word: str) -> list[str]:
        if len(word) > 200:
            return ["[UNK]"]
        pieces = []
        start = 0
        while start < len(word):
            end = len(word)
            found = None
            while start < end:
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.vocab:
                    found = piece
                    break
                end -= 1
            if found is None:
                return ["[UNK]"]
            pieces.append(found)
            start = end
        return pieces


def _is_whitespace(char: str) -> bool:
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
    return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
    point = ord(char)
    if 33 <= point <= 47 or 58 <= point <= 64 or 91 <= point <= 96 or 123 <= point <= 126:
        return True
    return unicodedata.category(char).startswith("P")
