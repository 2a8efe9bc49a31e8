"""A model directory's tokenizer: its vocabulary, its rules for splitting text, and the files that store both.

`vocab.txt` is Google's format: one token per line, the line number is the id. `tokenizer.json` is the format of the
`tokenizers` library and also contains the rules. `tokenizer_config.json` is Hugging Face transformers' file for the
rules. This module reads all of them, and every save writes all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from conversion.byte_level import (
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    ByteLevel,
    is_byte_level,
    read_byte_level,
)
from utils.errors import UserError
from utils.json_file import TooLargeError, read_json_object, read_text
from utils.messages import warn

VOCAB_FILE = "vocab.txt"
TOKENIZER_FILES = (VOCAB_FILE, TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_CHARACTERS_PER_WORD = 200  # Google's limit; a longer word is one [UNK]

_MOST_BYTES = 1 << 28
_MOST_TOKENS = 1 << 24  # limit, because an id in a JSON file may be any number
_MOST_CHANGED = 0.02  # fraction of the entries that a rule of the vocabulary may change
# Settings of tokenizer_config.json, and of tokenizer.json's normalizer, of which only BERT's value is supported.
_FIXED = {
    "do_basic_tokenize": True,
    "clean_text": True,
    "word_tokenizer_type": "basic",
    "subword_tokenizer_type": "wordpiece",
}
_NORMALIZER_NAMES = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
_PLAIN_NORMALIZERS = {"Lowercase": "do_lower_case", "StripAccents": "strip_accents"}
_PRE_TOKENIZERS = (["BertPreTokenizer"], ["WhitespaceSplit", "Punctuation"])


class Rules(NamedTuple):
    """How text is normalized and split; names and meanings are those of tokenizer_config.json.

    `strip_accents` None means the value of `do_lower_case`.
    """

    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True

    @property
    def strips_accents(self) -> bool:
        return self.do_lower_case if self.strip_accents is None else self.strip_accents


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A WordPiece vocabulary and its rules, or a byte-level tokenizer.

    Attributes:
        path: the file it comes from.
        tokens: by id, as in the file. If an entry occurs twice, the last one counts; blank entries are not tokens.
        rules: how text is split.
        source: the file that sets the casing; None if the rules are inferred from the entries.
        suggested: the rules without --do_lower_case.
        byte_level: the tokenizer if it is not WordPiece; it has rules of its own.
    """

    path: Path
    tokens: Sequence[str]
    rules: Rules
    source: Path | None = None
    suggested: Rules | None = None
    byte_level: ByteLevel | None = None

    @cached_property
    def ids(self) -> dict[str, int]:
        """{token: id}, with BERT's names of the special tokens."""
        if self.byte_level:
            return {**self.byte_level.roles, **{token: index for index, token in enumerate(self.tokens) if token}}
        stripped = ((token.strip(), index) for index, token in enumerate(self.tokens))
        return {token: index for token, index in stripped if token}

    @property
    def size(self) -> int:
        """The number of rows a model needs: the highest id + 1."""
        return max(self.ids.values()) + 1

    @property
    def text(self) -> bytes:
        """The content of vocab.txt."""
        return "".join(f"{token}\n" for token in self.tokens).encode()

    @property
    def sha256(self) -> str:
        """The SHA-256 of vocab.txt's content, or of a byte-level tokenizer.json, in hexadecimal."""
        content = self.byte_level.files[TOKENIZER_JSON] if self.byte_level else self.text
        return hashlib.sha256(content).hexdigest()

    @property
    def separators(self) -> int:
        """The number of separators between the two texts of a pair."""
        return self.byte_level.separators if self.byte_level else 1

    def need_wordpiece(self) -> Vocabulary:
        """Returns this vocabulary; raises UserError if it is not WordPiece."""
        if self.byte_level:
            raise UserError(
                f"{self.path} is a byte-level tokenizer, but WordPiece is needed here: use a vocab.txt instead."
            )
        return self

    def files(self, max_length: int) -> dict[str, bytes]:
        """{name: content} of all files of a model directory's tokenizer; `max_length` is the model's, in tokens."""
        if self.byte_level:
            return self.byte_level.files
        special = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
        settings = {
            "tokenizer_class": "BertTokenizer",
            **self.rules._asdict(),
            "model_max_length": max_length,
            **special,
        }
        return {
            VOCAB_FILE: self.text,
            TOKENIZER_JSON: _to_bytes(self._tokenizer_json()),
            TOKENIZER_CONFIG: _to_bytes(settings),
            SPECIAL_TOKENS_MAP: _to_bytes(special),
        }

    def rules_of_records(self) -> dict[str, Any]:
        """The rules to store with a record set: the casing, and the others if they differ from Google's."""
        lower = self.rules.do_lower_case
        return {"do_lower_case": lower} if self.rules == Rules(lower) else self.rules._asdict()

    def files_beside_records(self) -> dict[str, bytes]:
        """{name: content} of files to store with a record set: vocab.txt, and its rules if they are not Google's;
        or a byte-level tokenizer's files."""
        if self.byte_level:
            return self.byte_level.files
        rules = self.rules_of_records()
        return {VOCAB_FILE: self.text} | ({TOKENIZER_CONFIG: _to_bytes(rules)} if len(rules) > 1 else {})

    def warn_of_contradictions(self, do_lower_case: bool | None) -> None:
        """Warns if --do_lower_case contradicts the vocabulary, and if entries occur more than once."""
        if do_lower_case is not None and (conflict := self._conflict(do_lower_case)):
            _warn_once(f"--do_lower_case {do_lower_case} contradicts {conflict}: the flag is used.")
        doubled = sum(1 for token in self.tokens if token.strip()) - len(self.ids)
        if doubled and not self.byte_level:
            _warn_once(f"{self.path} has {doubled} duplicate entries: the last id of each is used.")

    def _conflict(self, do_lower_case: bool) -> str:
        """What contradicts the flag; "" if nothing does."""
        suggested = self.suggested or self.rules
        if self.source:
            differs = suggested.do_lower_case != do_lower_case
            return f"{self.source}, which says {suggested.do_lower_case}" if differs else ""
        if do_lower_case and not suggested.strips_accents:
            return f"{self.path}, whose entries have {'accents' if suggested.do_lower_case else 'capitals'}"
        has_case = any(word.lower() != word.upper() for word in _words(self.ids))
        if not do_lower_case and suggested.do_lower_case and has_case:
            return f"{self.path}, whose entries have no capitals"
        return ""

    def _tokenizer_json(self) -> dict[str, Any]:
        rules, ids = self.rules, self.ids
        added = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": ids[token], "content": token, **added} for token in SPECIAL_TOKENS],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": rules.tokenize_chinese_chars,
                "strip_accents": rules.strip_accents,
                "lowercase": rules.do_lower_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": _frame(ids),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": MAX_CHARACTERS_PER_WORD,
                "vocab": ids,
            },
        }


def vocab_path(path: str | Path) -> Path:
    """The vocabulary's file; a directory stands for its vocab.txt, or else its tokenizer.json."""
    path = Path(path)
    return find_vocabulary(path) or (path / VOCAB_FILE if path.is_dir() else path)


def find_vocabulary(directory: Path) -> Path | None:
    """The file of a directory that contains a vocabulary, if it has one."""
    return next((directory / name for name in (VOCAB_FILE, TOKENIZER_JSON) if (directory / name).is_file()), None)


def read_vocabulary(
    path: str | Path, do_lower_case: bool | None = None, *, settings_in: Path | None = None
) -> Vocabulary:
    """Reads a vocabulary and its rules.

    Args:
        path: a vocab.txt or a tokenizer.json, or the directory that contains one.
        do_lower_case: overrides the files; without files, the other rules are Google's.
        settings_in: a model directory whose tokenizer_config.json applies if the vocabulary has none next to it.

    Raises:
        UserError: the file cannot be read, lacks one of BERT's special tokens, or has rules that BERT does not have.
    """
    file = vocab_path(path)
    if file.suffix == ".json":
        content = read_json_object(file, _MOST_BYTES)
        if is_byte_level(content):
            if do_lower_case is not None:
                raise UserError(f"--do_lower_case does not apply to {file}, a byte-level tokenizer: omit the flag.")
            own = read_byte_level(file, content)
            return Vocabulary(file, own.tokens, Rules(False, False, False), byte_level=own)
        tokens: Sequence[str] = _tokens_of(content, file)
    else:
        tokens = _lines(file)
    vocabulary = Vocabulary(file, tokens, Rules())
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary.ids]
    if missing:
        raise UserError(
            f"vocabulary {file} lacks {', '.join(missing)}: make one with `prepare_data.py vocab`, or use vocab.txt "
            "from a BERT model"
        )
    said, source = _rules_in(file.parent)
    if settings_in is not None and source is None:
        said, source = _rules_in(settings_in)
    suggested = Rules(**said) if source else _judged(vocabulary.ids)._replace(**said)
    rules = suggested
    if do_lower_case is not None:
        rules = Rules(**{**said, "do_lower_case": do_lower_case})
    return dataclasses.replace(vocabulary, rules=rules, source=source, suggested=suggested)


@lru_cache
def _warn_once(sentence: str) -> None:
    """Warns once per sentence, because a command may read a vocabulary more than once."""
    warn(sentence)


# ---- vocabularies ----------------------------------------------------------------------------------------------------


def _lines(file: Path) -> list[str]:
    try:
        text = read_text(file, _MOST_BYTES)
    except OSError as error:
        raise UserError(f"vocabulary {file} cannot be read: {error.strerror}. Set one with --vocab_file.") from None
    except UnicodeDecodeError:
        raise UserError(f"vocabulary {file} is not UTF-8 text: one token per line is expected.") from None
    except TooLargeError:
        raise UserError(f"vocabulary {file} is over {_MOST_BYTES >> 20} MB; one token per line is expected") from None
    # Only line feeds end a line: a vocabulary may hold U+2028 and other separators as entries.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _tokens_of(content: Mapping[str, Any], file: Path) -> list[str]:
    """The tokens of a tokenizer.json by id; unused ids, and tokens that vocab.txt cannot represent, are blank."""
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type") or "WordPiece"
    if kind != "WordPiece":
        raise UserError(f"{file} contains a {kind} tokenizer; only WordPiece and byte-level BPE are supported.")
    for name, value in {"continuing_subword_prefix": "##", "unk_token": "[UNK]"}.items():
        if model.get(name, value) != value:
            raise UserError(f"{file} has the {name} {model[name]!r}, but only {value!r} is supported.")
    ids = model.get("vocab")
    if not isinstance(ids, dict) or not ids:
        raise UserError(f"{file} contains no vocabulary: copy it again, or set a vocab.txt with --vocab_file.")
    ids = {**ids, **_added_tokens(content, ids, file)}
    if any(type(index) is not int or not 0 <= index < _MOST_TOKENS for index in ids.values()):
        raise UserError(f"{file} has an id that is not a whole number from 0 to {_MOST_TOKENS - 1}: copy it again.")
    tokens = [""] * (max(ids.values()) + 1)
    for token, index in ids.items():
        if token == token.strip() and "\n" not in token and "\r" not in token and not _has_surrogate(token):
            tokens[index] = token
    return tokens


def _added_tokens(content: Mapping[str, Any], ids: Mapping[str, int], file: Path) -> dict[str, Any]:
    """Special tokens outside the model's vocabulary. Other added tokens are refused: they would be cut out of the text
    before BERT's rules apply."""
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in added
    ):
        raise UserError(f"{file}: added_tokens must be a list of tokens: copy the file again.")
    new = [one for one in added if one["content"] not in ids]
    for one in new:
        if not one.get("special"):
            raise UserError(
                f"{file} adds the token {one['content']!r} to the vocabulary, which is not supported: replace "
                "an [unused] entry of vocab.txt with it."
            )
    return {one["content"]: one.get("id") for one in new}


def _has_surrogate(token: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in token)


# ---- rules -----------------------------------------------------------------------------------------------------------


def _rules_in(directory: Path) -> tuple[dict[str, bool], Path | None]:
    """The rules in a directory's files (tokenizer_config.json takes precedence), and the file that sets the casing."""
    said: dict[str, bool] = {}
    source = None
    for name, read in ((TOKENIZER_JSON, _normalizer), (TOKENIZER_CONFIG, dict)):
        file = directory / name
        if file.is_file():
            given = _checked(read(read_json_object(file, _MOST_BYTES)), file)
            said |= given
            source = file if "do_lower_case" in given else source
    return said, source


def _checked(settings: Mapping[str, Any], file: Path) -> dict[str, bool]:
    """The rules among settings; raises UserError for a setting that is not supported."""
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in _FIXED.items():
        if settings.get(name, value) != value:
            raise UserError(f"{file} sets {name} to {settings[name]!r}, but only {value!r} is supported.")
    never_split = settings.get("never_split", ())
    if not isinstance(never_split, list | tuple) or not set(map(str, never_split)) <= set(SPECIAL_TOKENS):
        raise UserError(
            f"{file} has a never_split list ({never_split!r:.60}), which is not supported: remove it (such words "
            "are then split at punctuation)."
        )
    rules = {name: settings[name] for name in Rules._fields if name in settings}
    for name, value in rules.items():
        if not isinstance(value, bool):
            raise UserError(f"{file}: {name} must be true or false, not {value!r:.60}.")
    return rules


def _normalizer(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a tokenizer.json under the names of tokenizer_config.json.

    Raises:
        UserError: its normalizer or pre-tokenizer is not BERT's.
    """
    splits = [part.get("type") for part in _parts(content.get("pre_tokenizer"), "pretokenizers")]
    if splits and splits not in _PRE_TOKENIZERS:
        raise UserError(f"the pre-tokenizer {splits[-1]} in tokenizer.json is not BERT's, and is not supported.")
    if not (steps := _parts(content.get("normalizer"), "normalizers")):
        return {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    if [step.get("type") for step in steps] == ["BertNormalizer"]:
        return {_NORMALIZER_NAMES.get(name, name): value for name, value in steps[0].items() if name != "type"}
    said: dict[str, Any] = {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    for step in steps:
        kind = str(step.get("type"))
        if kind in _PLAIN_NORMALIZERS:
            said[_PLAIN_NORMALIZERS[kind]] = True
        elif kind != "NFD":  # accents can only be stripped after it
            raise UserError(f"the normalizer {kind} in tokenizer.json is not BERT's, and is not supported.")
    return said


def _parts(content: Any, list_name: str) -> list[dict[str, Any]]:
    """The parts of a tokenizer.json component, as a list."""
    if not isinstance(content, dict):
        return []
    if content.get("type") != "Sequence":
        return [content]
    parts = content.get(list_name)
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _judged(ids: Iterable[str]) -> Rules:
    """Infers the rules from the entries: a rule that would change many of them was not applied to the training text."""
    words = list(_words(ids))
    letters = {word for word in words if len(word) == 1}
    cased = [word for word in words if word.lower() != word.upper()]
    capitals = sum(word != word.lower() for word in cased)
    # A single accented letter is no evidence if the letter without the accent is also an entry.
    unclear = {word for word in letters if _without_accents(word) in letters}
    accents = sum(word != _without_accents(word) and word not in unclear for word in words)
    if capitals > _MOST_CHANGED * len(cased):
        return Rules(do_lower_case=False)
    return Rules(strip_accents=False) if accents > _MOST_CHANGED * len(words) else Rules()


def _words(ids: Iterable[str]) -> Iterable[str]:
    """The entries made of letters, without the ## prefix and without special tokens."""
    words = (token.removeprefix("##") for token in ids if not (token.startswith("[") and token.endswith("]")))
    return (word for word in words if any(map(str.isalpha, word)))


def _without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


# ---- files -----------------------------------------------------------------------------------------------------------


def _to_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _frame(ids: Mapping[str, int]) -> dict[str, Any]:
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, with the segments that BERT gives them."""

    def special(token: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special("[SEP]", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
        },
    }
