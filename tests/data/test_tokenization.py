"""Our tokenizer against an independent implementation of Google's rules, one character at a time."""

import itertools
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conversion.tokenizer_files import SPECIAL_TOKENS, Rules
from data.tokenization import BulkTokenizer, build_tokenizer, load_tokenizer, load_vocab
from utils.errors import UserError

CHINESE = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]
LETTERS = "abcdefghijklmnopqrstuvwxyzσςαßıøæ漢字𠮷ж0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~’“”—…«»¡¿。ABC"
PIECES = ["un", "##aff", "##able", "the", "##s", "mask", "hello", "##ing", "##o", "caf", "##e", "i̇"]
VOCAB = {
    token: index
    for index, token in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *LETTERS, *("##" + c for c in LETTERS), *PIECES]))
}


def is_control(c):
    return c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf")


def is_punctuation(c):
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(c)[0] == "P"


def basic_tokens(text, lower, strip=None, chinese=True):
    strip = lower if strip is None else strip
    text = "".join(c for c in text if c not in "\0\ufffd" and not is_control(c))
    if chinese:
        text = "".join(f" {c} " if any(a <= ord(c) <= b for a, b in CHINESE) else c for c in text)
    for word in text.split():
        word = word.lower() if lower else word
        if strip:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        token = ""
        for c in word:
            if is_punctuation(c):
                yield from (t for t in (token, c) if t)
                token = ""
            else:
                token += c
        yield from token.split()


def google_tokens(text, lower=True, strip=None, chinese=True, vocab=VOCAB):
    tokens = []
    for word in basic_tokens(text, lower, strip, chinese):
        pieces, start = [], 0
        while start < len(word) and len(word) <= 200:
            ends = (e for e in range(len(word), start, -1) if ("##" if start else "") + word[start:e] in vocab)
            end = next(ends, None)
            if end is None:
                break
            pieces.append(("##" if start else "") + word[start:end])
            start = end
        tokens += pieces if start == len(word) else ["[UNK]"]
    return tokens


# Python 3.10 knows the characters of Unicode 13; in version 14 these two became spacing marks.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cn"), exclude_characters="\u1734\U0001171e")
RULES = [Rules(*each) for each in itertools.product((True, False), (None, True, False), (True, False))]
TOKENIZERS = {rules: build_tokenizer(VOCAB, *rules) for rules in RULES}
ODD = (
    "\0\ufffd\u2028\u2029\x85\x0b\x1c\xad\u200b\u200d\ufeff\u00a0\u3000\ue000\U000f0000\U0002b8ff\U0001f970"
    "ΣΌσÅªʰⅠİıẞǅßéÅ\u0301\u0345'.漢葛\U0002f800한각"
)
PARTS = [*ODD, *PIECES, "[MASK]", " ", "ΟΔΟΣ", "Unaffable"]


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(CHARACTERS, max_size=6), st.sampled_from([*ODD, *PIECES, "[MASK]", " ", "ΟΔΟΣ", "Unaffable"])
        ),
        max_size=12,
    ),
    st.sampled_from(RULES),
)
@example(["[MASK] ", "Ünaffable", "ΟΔΥΣΣΕΥΣ ΣΑΣ' Α'Σ Σ"], Rules())
@example(["Ünaffable 漢字"], Rules(True, False, False))
@example(["a" * 200, " ", "a" * 201], Rules())
def test_equals_google_on_any_text(parts, rules):
    text = "".join(parts).encode("utf-8", "ignore").decode()
    assert TOKENIZERS[rules].encode(text).tokens == google_tokens(text, *rules)


@pytest.mark.parametrize("rules", [Rules(True), Rules(False), Rules(True, False)])
def test_equals_google_on_characters_of_every_kind(rules):
    """All assigned characters, but of letters without case and of private ones (nine in ten) every 23rd."""
    kinds = [(chr(c), unicodedata.category(chr(c))) for c in range(0x110000)]
    characters = [c for c, kind in kinds if kind not in ("Cs", "Cn") and (kind not in ("Lo", "Co") or ord(c) % 23 == 0)]
    texts = [f"a{c}b {c}" for c in characters]
    got = [encoding.tokens for encoding in TOKENIZERS[rules].encode_batch(texts)]
    different = [
        hex(ord(c))
        for c, text, tokens in zip(characters, texts, got, strict=True)
        if tokens != google_tokens(text, *rules)
    ]
    # Spacing marks since Unicode 14, which is newer than Python 3.10's tables.
    assert set(different) <= {"0x1734", "0x1171e"}


def test_vocabulary_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="--vocab_file"):
        load_vocab(tmp_path / "none.txt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(UserError, match=r"\[CLS\], \[SEP\], \[MASK\]"):
        load_vocab(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_tokenizer(tmp_path)


def test_line_number_is_the_id(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    assert load_vocab(tmp_path) == VOCAB
    assert load_tokenizer(tmp_path, True).encode("Unaffable").ids == [VOCAB[t] for t in ("un", "##aff", "##able")]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.text(CHARACTERS, max_size=5), st.sampled_from([*ODD, *PIECES, " "])), max_size=9),
        max_size=4,
    ),
    st.sampled_from(RULES),
)
def test_bulk_tokenizer_is_the_tokenizer(parts, rules):
    lines = ["".join(line).encode("utf-8", "ignore").decode() for line in parts]
    bulk = BulkTokenizer(VOCAB, *rules, words_kept=7)
    bulk.encode(lines[:2])
    ids, counts = bulk.encode(lines)
    expected = [TOKENIZERS[rules].encode(line).ids for line in lines]
    assert ids.tolist() == [i for line in expected for i in line]
    assert counts.tolist() == [len(line) for line in expected]
