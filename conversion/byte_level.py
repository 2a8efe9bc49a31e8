"""Byte-level BPE tokenizers (GPT-2, Radford et al. 2019), which RoBERTa and ModernBERT use.

The `tokenizers` library applies their tokenizer.json unchanged, and checkpoints contain a copy of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.json_file import read_json_object

TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
BYTE_LEVEL_FILES = ("vocab.json", "merges.txt", "added_tokens.json")  # only such tokenizers have them
_MOST_BYTES = 1 << 28
_MOST_TOKENS = 1 << 24  # limit, because an id in a JSON file may be any number
# {BERT's name of a special token: its usual name in byte-level tokenizers}
_ROLES = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>", "[UNK]": "<unk>"}


class ByteLevel(NamedTuple):
    """A byte-level tokenizer.

    Attributes:
        tokens: by id; unused ids are "".
        roles: {BERT's name of a special token: its id}.
        separators: the number of separators between the two texts of a pair (RoBERTa: 2).
        text: the tokenizer.json that splits texts, without truncation, padding and special tokens.
        files: {name: content} of the tokenizer's files.
    """

    tokens: list[str]
    roles: dict[str, int]
    separators: int
    text: str
    files: dict[str, bytes]


def is_byte_level(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json contains a byte-level BPE tokenizer."""
    model, decoder = content.get("model"), content.get("decoder")
    kinds = [part.get("type") for part in (model, decoder) if isinstance(part, dict)]
    return kinds == ["BPE", "ByteLevel"]


def read_byte_level(file: Path, content: Mapping[str, Any]) -> ByteLevel:
    """Reads a tokenizer.json.

    Args:
        file: its path.
        content: its content, for which `is_byte_level` is true.

    Raises:
        UserError: ids are out of range, or a special token is missing.
    """
    ids = content["model"].get("vocab")
    added = content.get("added_tokens") or []
    try:
        ids = {**ids, **{one["content"]: one["id"] for one in added}}
        known = all(isinstance(token, str) and 0 <= index < _MOST_TOKENS for token, index in ids.items())
        known = known and all(type(index) is int for index in ids.values())
    except (TypeError, KeyError):
        known = False
    if not known or not ids:
        raise UserError(f"{file} contains no vocabulary with ids from 0 to {_MOST_TOKENS - 1}: copy it again.")
    tokens = [""] * (max(ids.values()) + 1)
    for token, index in ids.items():
        tokens[index] = token
    others = {name: file.parent / name for name in (*FILES[1:], *BYTE_LEVEL_FILES)}
    files = {TOKENIZER_JSON: file.read_bytes()}
    files |= {name: path.read_bytes() for name, path in others.items() if path.is_file()}
    return ByteLevel(tokens, _roles(file, ids), _separators(content), _plain(content), files)


def _roles(file: Path, ids: Mapping[str, int]) -> dict[str, int]:
    """The ids of the special tokens, whose names are in tokenizer_config.json or are the usual ones."""
    settings = file.parent / TOKENIZER_CONFIG
    named = read_json_object(settings, _MOST_BYTES) if settings.is_file() else {}
    roles = {}
    for role, usual in _ROLES.items():
        stated = named.get(f"{role.strip('[]').lower()}_token")
        stated = stated.get("content") if isinstance(stated, dict) else stated
        found = next((name for name in (stated, role, usual) if isinstance(name, str) and name in ids), None)
        if found is not None:
            roles[role] = ids[found]
    roles.setdefault("[UNK]", roles.get("[PAD]", 0))  # never used, because every byte has a token
    missing = [f"{role} or {usual}" for role, usual in _ROLES.items() if role not in roles]
    if missing:
        raise UserError(f"{file} has no token {missing[0]}: add it, or name it in {settings.name}.")
    return roles


def _separators(content: Mapping[str, Any]) -> int:
    processor = content.get("post_processor")
    processor = processor if isinstance(processor, dict) else {}
    if processor.get("type") == "RobertaProcessing":
        return 2
    pair = processor.get("pair")
    kinds = ["Sequence" in part for part in pair if isinstance(part, dict)] if isinstance(pair, list) else []
    texts = [number for number, is_text in enumerate(kinds) if is_text]
    return max(1, texts[1] - texts[0] - 1) if len(texts) == 2 else 1


def _plain(content: Mapping[str, Any]) -> str:
    before = content.get("pre_tokenizer")
    adds_space = bool(before.get("add_prefix_space")) if isinstance(before, dict) else False
    # This processor only excludes the space before a word from the word's offsets.
    processor = {"type": "ByteLevel", "add_prefix_space": adds_space, "trim_offsets": True, "use_regex": True}
    return json.dumps({**content, "truncation": None, "padding": None, "post_processor": processor})
