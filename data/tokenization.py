"""BERT's tokenizer: a vocabulary file becomes a `tokenizers.Tokenizer` that equals Google's `FullTokenizer`.

Each rule of `tokenization.py` in google-research/bert (clean, split Chinese, lower-case and strip accents, split
punctuation, greedy longest match) is one expression below. The library's own BERT rules are not used: they drop
private-use characters and young emoji, miss one block of Chinese and know no final sigma.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from utils.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_CHARACTERS_PER_WORD = 200  # a longer word is one [UNK]
MAX_VOCAB_BYTES = 1 << 28

_CHINESE = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B820}-\x{2CEAF}\x{2F800}-\x{2FA1F}"
)
_REMOVED = r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r]]"
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
# Python's str.lower(): a sigma after a cased letter, and before none, is final. Words end at spaces and Chinese.
_IGNORED = r"\p{Case_Ignorable}*"
_CASED = r"[\p{Cased}&&\P{Case_Ignorable}]"
_FINAL_SIGMA = rf"{_CASED}{_IGNORED}\KΣ(?!{_IGNORED}{_CASED})"


def load_vocab(path: str | Path) -> dict[str, int]:
    """Reads one token per line, the line number being its id; a model directory stands for its `vocab.txt`.

    Raises UserError if the file cannot be read, is not UTF-8 text, or lacks one of BERT's special tokens.
    """
    file = vocab_path(path)
    try:
        if file.stat().st_size > MAX_VOCAB_BYTES:
            raise UserError(f"vocabulary {file} is over {MAX_VOCAB_BYTES >> 20} MB; one token per line is expected")
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read vocabulary {file}: {error.strerror}; name one with --vocab_file") from None
    except UnicodeDecodeError:
        raise UserError(f"vocabulary {file} is not UTF-8 text; one token per line is expected") from None
    vocab = {line.strip(): index for index, line in enumerate(lines)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"vocabulary {file} lacks {', '.join(missing)}; make one with `prepare_data.py vocab` or take vocab.txt "
            "from a BERT model"
        )
    return vocab


def vocab_path(vocab_file: str | Path) -> Path:
    """The vocabulary's file; a model directory stands for its vocab.txt."""
    return Path(vocab_file, "vocab.txt") if Path(vocab_file).is_dir() else Path(vocab_file)


def vocab_sha256(vocab_file: str | Path) -> str:
    """The SHA-256, in hexadecimal, of a vocabulary's file as it is written here: each token's line ended by "\\n"."""
    text = vocab_path(vocab_file).read_text(encoding="utf-8").removesuffix("\n")
    return hashlib.sha256(f"{text}\n".encode()).hexdigest()


def check_casing(vocab: Mapping[str, int], do_lower_case: bool, vocab_file: str) -> None:
    """Raises UserError where `do_lower_case` contradicts the vocabulary, which would silently ruin every answer."""
    words = [token for token in vocab if token.isascii() and token.isalpha()]  # neither pieces nor [CLS] and its like
    capitals = sum(word != word.lower() for word in words)
    if do_lower_case and capitals > 0.05 * len(words):
        raise UserError(
            f"--do_lower_case True contradicts --vocab_file {vocab_file}, whose words have capitals (it is cased): "
            "pass --do_lower_case False."
        )
    if not do_lower_case and words and not capitals:
        raise UserError(
            f"--do_lower_case False contradicts --vocab_file {vocab_file}, no word of which has a capital (it is "
            "uncased): pass --do_lower_case True."
        )


def load_tokenizer(vocab_file: str | Path, do_lower_case: bool = True) -> Tokenizer:
    """Returns a tokenizer whose `encode(text).tokens` are those of Google's `FullTokenizer(...).tokenize(text)`.

    Special tokens are neither added nor recognised: "[MASK]" in a text is three tokens, as there.
    """
    return build_tokenizer(load_vocab(vocab_file), do_lower_case)


def build_tokenizer(vocab: dict[str, int], do_lower_case: bool = True) -> Tokenizer:
    """`load_tokenizer` for a vocabulary already in memory, which may still be empty (to be trained)."""
    model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS_PER_WORD)
    tokenizer = Tokenizer(model)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(_REMOVED), "")]
    if do_lower_case:
        steps += [
            normalizers.Replace(Regex(_FINAL_SIGMA), "ς"),
            normalizers.Lowercase(),
            normalizers.NFD(),
            normalizers.Replace(Regex(r"\p{Mn}"), ""),
        ]
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(f"[{_PUNCTUATION}{_CHINESE}]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    return tokenizer


_ASCII_PARTS = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9]")
# Control characters that separate words for str.split, and that BERT removes instead.
_CONTROL_SPACES = re.compile("[\x0b\x0c\x1c-\x1f\x85]")


class BulkTokenizer:
    """Token ids of a great deal of text: every distinct word is tokenized once.

    No rule looks beyond a word's spaces, so that a text's tokens are those of its words, one after the other. In
    printable ASCII the rules come to: lower-case, and part letters and digits from each of the other characters. What
    is left after that are fewer, shorter words, and the full rules for the others.
    """

    def __init__(self, vocab: dict[str, int], do_lower_case: bool, words_kept: int = 500_000) -> None:
        self._vocab = vocab
        self._tokenizer = build_tokenizer(vocab, do_lower_case)
        self._model = self._tokenizer.model  # splits what the other rules leave as it is
        self._do_lower_case = do_lower_case
        self._parts = _Memory(self._tokenize, words_kept)
        self._words = _Memory(lambda words: self._parts.encode(list(map(self._split, words))), words_kept)

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the token ids of all lines, int32 [tokens], and how many each line has, int64 [lines]."""
        if any(map(_CONTROL_SPACES.search, lines)):
            lines = [_CONTROL_SPACES.sub("", line) for line in lines]
        return self._words.encode([line.split() for line in lines])

    def _split(self, word: str) -> list[str]:
        if word.isascii() and word.isprintable():
            return _ASCII_PARTS.findall(word.lower() if self._do_lower_case else word)
        return [word]

    def _tokenize(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = [self._ids(part) for part in parts]
        return np.fromiter(chain.from_iterable(ids), np.int32), np.fromiter(map(len, ids), np.int64, len(ids))

    def _ids(self, part: str) -> Sequence[int]:
        if not (part.isascii() and part.isprintable()):
            ids: list[int] = self._tokenizer.encode(part).ids
            return ids
        if part in self._vocab:  # its own longest match
            return (self._vocab[part],)
        return [token.id for token in self._model.tokenize(part)]


class _Numbers(dict[str, int]):
    """Numbers strings in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


class _Memory:
    """What `tokenize` gave for each distinct string: ids int32 [tokens] and how many are each string's, int64."""

    def __init__(self, tokenize: Callable[[list[str]], tuple[np.ndarray, np.ndarray]], most: int) -> None:
        self._tokenize = tokenize
        self._most = most
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._ids = np.empty(0, np.int32)  # of all strings, one after the other
        self._ends = np.zeros(1, np.int64)  # where each string's end, after a 0

    def encode(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of lists of strings, int32 [tokens], and how many each list has, int64 [lists]."""
        if len(self._numbers) > self._most:
            self._forget()
        known = len(self._numbers)
        numbers = np.fromiter(map(self._numbers.__getitem__, chain.from_iterable(texts)), np.int64)
        new = list(islice(reversed(self._numbers), len(self._numbers) - known))[::-1]
        if new:
            ids, counts = self._tokenize(new)
            self._ids = np.concatenate([self._ids, ids])
            self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(counts)])

        first = self._ends[numbers]
        counts = self._ends[numbers + 1] - first
        ends = np.append(0, np.cumsum(counts))  # after each string
        ids = self._ids[np.arange(ends[-1]) + np.repeat(first - ends[:-1], counts)]
        list_ends = np.append(0, np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts))))
        return ids, np.diff(ends[list_ends])
