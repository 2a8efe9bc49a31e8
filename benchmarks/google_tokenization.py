"""A reimplementation of BERT's original tokenizer in pure Python, one character and one word at a time.

It follows the rules of google-research/bert's tokenization.py with the same steps, even where Python has shorter ones,
so that it has the same results and the same speed. Benchmarks and tests compare with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping


class BasicTokenizer:
    """Splits text into words: cleans it, lower-cases it, splits at white space, punctuation and Chinese characters."""

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
            if _is_chinese(ord(char)):
                spaced.append(" ")
                spaced.append(char)
                spaced.append(" ")
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
        chars = list(word)
        i = 0
        while i < len(chars):
            char = chars[i]
            if _is_punctuation(char):
                parts.append([char])
                new_part = True
            else:
                if new_part:
                    parts.append([])
                new_part = False
                parts[-1].append(char)
            i += 1
        return ["".join(part) for part in parts]


class FullTokenizer:
    """Splits text into WordPieces by greedy longest match."""

    def __init__(self, vocab: Mapping[str, int], do_lower_case: bool = True) -> None:
        self.vocab = vocab
        self.basic_tokenizer = BasicTokenizer(do_lower_case)

    def tokenize(self, text: str) -> list[str]:
        """The WordPieces of a text."""
        pieces = []
        for word in self.basic_tokenizer.tokenize(text):
            for piece in self._pieces(word):
                pieces.append(piece)
        return pieces

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """The ids of tokens."""
        return [self.vocab[token] for token in tokens]

    def _pieces(self, word: str) -> list[str]:
        chars = list(word)
        if len(chars) > 200:
            return ["[UNK]"]
        pieces = []
        start = 0
        while start < len(chars):
            end = len(chars)
            found = None
            while start < end:
                piece = "".join(chars[start:end])
                if start > 0:
                    piece = "##" + piece
                if piece in self.vocab:
                    found = piece
                    break
                end -= 1
            if found is None:
                return ["[UNK]"]
            pieces.append(found)
            start = end
        return pieces


def _is_chinese(point: int) -> bool:
    return (
        0x4E00 <= point <= 0x9FFF
        or 0x3400 <= point <= 0x4DBF
        or 0x20000 <= point <= 0x2A6DF
        or 0x2A700 <= point <= 0x2B73F
        or 0x2B740 <= point <= 0x2B81F
        or 0x2B820 <= point <= 0x2CEAF
        or 0xF900 <= point <= 0xFAFF
        or 0x2F800 <= point <= 0x2FA1F
    )


def _is_whitespace(char: str) -> bool:
    if char == " " or char == "\t" or char == "\n" or char == "\r":
        return True
    return unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
    if char == "\t" or char == "\n" or char == "\r":
        return False
    return unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
    point = ord(char)
    if 33 <= point <= 47 or 58 <= point <= 64 or 91 <= point <= 96 or 123 <= point <= 126:
        return True
    return unicodedata.category(char).startswith("P")
