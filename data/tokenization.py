"""BERT's tokenizer: a `tokenizers.Tokenizer` that produces the same tokens as Google's `FullTokenizer`.

Each rule of `tokenization.py` in google-research/bert (clean, split Chinese, lower-case and strip accents, split
punctuation, greedy longest match) is one expression below. The library's own BERT rules differ: they drop private-use
characters and recent emoji, miss one block of Chinese characters and ignore the final sigma.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from conversion.tokenizer_files import MAX_CHARACTERS_PER_WORD, Rules, Vocabulary, read_vocabulary
from data.counter_random import mix
from utils.errors import UserError

_CHINESE_BLOCKS = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F)),
)
_CHINESE = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _CHINESE_BLOCKS)
_REMOVED = r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r]]"
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
# As in Python's str.lower(), a sigma is final if a cased letter precedes it and none follows it in the same word.
_IGNORED = r"\p{Case_Ignorable}*"
_CASED = r"[\p{Cased}&&\P{Case_Ignorable}]"
_FINAL_SIGMA = rf"{_CASED}{_IGNORED}\KΣ(?!{_IGNORED}{_CASED})"


def is_chinese(character: str) -> bool:
    """Whether a character is Chinese, so that it is always a token of its own."""
    return any(first <= ord(character) <= last for first, last in _CHINESE_BLOCKS)


def load_vocab(path: str | Path) -> dict[str, int]:
    """Reads {token: id} from a vocab.txt, a tokenizer.json, or a directory that contains one of them."""
    return read_vocabulary(path).ids


def load_tokenizer(vocab_file: str | Path, do_lower_case: bool | None = None) -> Tokenizer:
    """Returns a tokenizer whose `encode(text).tokens` are those of Google's `FullTokenizer(...).tokenize(text)`.

    Special tokens are neither added nor recognised: "[MASK]" in a text is three tokens, as in Google's code.

    Args:
        vocab_file: the vocabulary; files next to it may set rules other than Google's.
        do_lower_case: overrides those files.
    """
    return tokenizer_of(read_vocabulary(vocab_file, do_lower_case))


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """`load_tokenizer` for a vocabulary already in memory.

    Raises:
        UserError: the `tokenizers` library cannot use a byte-level tokenizer.json.
    """
    if vocabulary.byte_level is None:
        return build_tokenizer(vocabulary.ids, *vocabulary.rules)
    try:
        return Tokenizer.from_str(vocabulary.byte_level.text)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"{vocabulary.path} is not a usable tokenizer ({error}): copy it again.") from None


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a word contain the space before it."""
    return isinstance(tokenizer.decoder, decoders.ByteLevel)


def bulk_tokenizer(vocabulary: Vocabulary) -> BulkTokenizer | ByteLevelTokenizer:
    """The tokenizer for large amounts of text."""
    if vocabulary.byte_level:
        return ByteLevelTokenizer(vocabulary)
    return BulkTokenizer(vocabulary.ids, *vocabulary.rules)


def build_tokenizer(
    vocab: dict[str, int],
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
) -> Tokenizer:
    """`load_tokenizer` for a vocabulary already in memory, which may be empty, and the fields of `Rules`."""
    model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS_PER_WORD)
    tokenizer = Tokenizer(model)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(_REMOVED), "")]
    if do_lower_case:
        steps += [normalizers.Replace(Regex(_FINAL_SIGMA), "ς"), normalizers.Lowercase()]
    if Rules(do_lower_case, strip_accents).strips_accents:
        steps += [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")]
    isolated = _PUNCTUATION + _CHINESE if tokenize_chinese_chars else _PUNCTUATION
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(f"[{isolated}]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    return tokenizer


class ByteLevelTokenizer:
    """A byte-level tokenizer with the methods of `BulkTokenizer`."""

    words_have_spaces = True  # the first token of a word contains the space before it

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer_of(vocabulary)

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `BulkTokenizer.encode`."""
        found = [one.ids for one in self._tokenizer.encode_batch(list(lines), add_special_tokens=False)]
        ids = np.fromiter(chain.from_iterable(found), np.int32)
        return ids, np.fromiter(map(len, found), np.int64, len(found))

    def encode_words(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """As `BulkTokenizer.encode_words`."""
        return self.encode([" " + word if number else word for words in texts for number, word in enumerate(words)])


# Classes of bytes: space, letter or digit, other printable ASCII, and bytes that need the full rules.
_SPACE, _LETTER, _OTHER, _HARD = range(4)
_KINDS = bytes(
    _SPACE if byte in b" \t\n\r" else _HARD if not 0x21 <= byte < 0x7F else _LETTER if chr(byte).isalnum() else _OTHER
    for byte in range(256)
)
_CELL_BITS = 20
_BATCH_CHARACTERS = 1 << 18  # of one batch, so that it fits in a processor's cache


class BulkTokenizer:
    """A tokenizer for large amounts of text, which tokenizes every distinct part of a word only once.

    No rule looks across a space, so the tokens of a text are those of its words in order. For printable ASCII the rules
    reduce to lower-casing and separating letters and digits from other characters. This, and the lookup of known parts,
    is done for all words at once. Words with other characters stay whole and are processed with the full rules.
    """

    words_have_spaces = False

    def __init__(
        self,
        vocab: dict[str, int],
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        *,
        words_kept: int = 500_000,
    ) -> None:
        self._vocab = vocab
        self._tokenizer = build_tokenizer(vocab, do_lower_case, strip_accents, tokenize_chinese_chars)
        self._model = self._tokenizer.model  # for parts that the other rules do not change
        self._do_lower_case = do_lower_case
        self._words_kept = words_kept
        self._forget()

    def _forget(self) -> None:
        self._number_of: dict[bytes, int] = {}  # index of each known part
        self._ids = np.empty(0, np.int32)  # token ids of all parts, concatenated
        self._ends = np.zeros(1, np.int64)  # end of each part's ids, after a leading 0
        # The same indices by hash: each cell contains the part that was stored in it last.
        self._hashes = np.zeros(1 << _CELL_BITS, np.uint64)
        self._hashes[0] = np.iinfo(np.uint64).max  # 0 in cell 0 would be a valid hash; this one belongs to another cell
        self._numbers = np.zeros(1 << _CELL_BITS, np.int32)

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the token ids of all lines, int32 [tokens], and each line's number of tokens, int64 [lines]."""
        batch = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines))) // _BATCH_CHARACTERS
        borders = np.append(np.flatnonzero(np.diff(batch, prepend=-1)), len(lines)).tolist()
        encoded = [self._encode(lines[first:end]) for first, end in pairwise(borders)]
        ids, counts = zip(*encoded, strict=True) if encoded else ((), ())
        return np.concatenate([np.empty(0, np.int32), *ids]), np.concatenate([np.empty(0, np.int64), *counts])

    def encode_words(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the token ids of the words of all texts, int32 [tokens], and each word's number, int64 [words]."""
        return self.encode([word for words in texts for word in words])

    def _encode(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        text = "\n".join(["", *lines, ""])
        if text.count("\n") > len(lines) + 1:
            text = "\n".join(["", *(line.replace("\n", " ") for line in lines), ""])
        text_bytes, starts, ends, newlines = self._split(text)
        numbers = self._look_up(text_bytes, starts, ends)

        first = self._ends[numbers]
        counts = self._ends[numbers + 1] - first
        token_ends = np.append(0, np.cumsum(counts))
        ids = self._ids[np.arange(token_ends[-1]) + np.repeat(first - token_ends[:-1], counts)]
        return ids, np.diff(token_ends[np.searchsorted(starts, newlines)])

    def _split(self, text: str) -> tuple[bytes, np.ndarray, np.ndarray, np.ndarray]:
        """Returns the text as bytes to look up, int64 [parts] starts and ends of its parts, and its newlines."""
        encoded = text.encode() + b" " * _EIGHT
        lowered = encoded.lower() if self._do_lower_case else encoded
        data, kinds = np.frombuffer(encoded, np.uint8), np.frombuffer(encoded.translate(_KINDS), np.uint8)
        newlines = np.flatnonzero(data == ord("\n"))
        hard = np.flatnonzero(kinds == _HARD)
        if len(hard):  # words with such bytes stay whole and unchanged
            spaces = np.flatnonzero(kinds == _SPACE)
            words = np.unique(np.searchsorted(spaces, hard))
            steps = np.zeros(len(data), np.int8)
            steps[spaces[words - 1] + 1], steps[spaces[words]] = 1, -1
            inside = np.cumsum(steps, dtype=np.int8).view(bool)
            kinds = np.where(inside, np.uint8(_LETTER), kinds)
            lowered = np.where(inside, data, np.frombuffer(lowered, np.uint8)).tobytes()
        borders = np.flatnonzero((kinds[1:] != kinds[:-1]) | (kinds[1:] == _OTHER)) + 1
        (parts,) = np.nonzero(kinds[borders] != _SPACE)
        return lowered, borders[parts], borders[parts + 1], newlines

    def _look_up(self, text: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns the index of each part."""
        if len(self._number_of) > self._words_kept:
            self._forget()
        hashes = _hash_parts(text, starts, ends - starts)
        cells = (hashes >> np.uint64(64 - _CELL_BITS)).astype(np.int64)
        numbers = self._numbers[cells]
        missing = np.flatnonzero(self._hashes[cells] != hashes)
        _, first, which = np.unique(hashes[missing], return_index=True, return_inverse=True)
        first = missing[first]
        parts = [text[start:end] for start, end in zip(starts[first].tolist(), ends[first].tolist(), strict=True)]
        self._learn([part for part in parts if part not in self._number_of])
        found = np.fromiter(map(self._number_of.__getitem__, parts), np.int32, len(parts))
        self._hashes[cells[first]], self._numbers[cells[first]] = hashes[first], found
        numbers[missing] = found[which]
        return numbers

    def _learn(self, parts: Sequence[bytes]) -> None:
        ids = [self._tokenize(part.decode()) for part in parts]
        self._number_of.update(zip(parts, range(len(self._number_of), len(self._number_of) + len(parts)), strict=True))
        self._ids = np.concatenate([self._ids, np.fromiter(chain.from_iterable(ids), np.int32)])
        ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))
        self._ends = np.concatenate([self._ends, self._ends[-1] + ends])

    def _tokenize(self, part: str) -> Sequence[int]:
        if not (part.isascii() and part.isprintable()):
            ids: list[int] = self._tokenizer.encode(part).ids
            return ids
        if part in self._vocab:  # the longest match is the part itself
            return (self._vocab[part],)
        return [token.id for token in self._model.tokenize(part)]


_EIGHT = 8  # bytes that are read as one number
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(_EIGHT + 1)], np.uint64)  # masks, little-endian


def _hash_parts(text: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns uint64 [parts] hashes, which are distinct for parts of at most eight bytes.

    Among a million longer parts, the chance that two have the same hash is one in forty million.
    """
    # The eight bytes from each position on.
    eights: np.ndarray = np.ndarray(len(text) - _EIGHT + 1, "<u8", text, strides=(1,))
    hashes = eights[starts] & _FIRST_BYTES[np.minimum(lengths, _EIGHT)]
    rest = np.flatnonzero(lengths > _EIGHT)
    done = _EIGHT
    while len(rest):
        more = eights[starts[rest] + done] & _FIRST_BYTES[np.minimum(lengths[rest] - done, _EIGHT)]
        hashes[rest] = mix(hashes[rest]) ^ more
        done += _EIGHT
        rest = rest[lengths[rest] > done]
    return mix(hashes)
