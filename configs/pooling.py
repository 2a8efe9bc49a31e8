"""How an embedding model computes one vector per text, and the sentence-transformers files that store it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.json_file import read_settings
from utils.messages import warn

POOLINGS = ("cls", "mean", "max")
MODULES_FILE, LENGTH_FILE, PROMPTS_FILE = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# Patterns of the files that describe a pooling.
POOLING_FILES = (MODULES_FILE, "*_Pooling/config.json", LENGTH_FILE, PROMPTS_FILE)
_MOST_MODULES_BYTES = 1 << 20
# The pooling modes of sentence-transformers' Pooling module. Modes without a name are not supported.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "",
    "pooling_mode_weightedmean_tokens": "",
    "pooling_mode_lasttoken": "",
}


@dataclass(frozen=True)
class Pooling:
    """How the token vectors of a text are combined into one vector.

    Attributes:
        kind: the vector of [CLS], or the mean or the maximum over all tokens.
        normalize: whether the vector is divided by its length.
        max_seq_length: longer texts are cut to this number of tokens; None: the model's limit.
    """

    kind: str = "mean"
    normalize: bool = False
    max_seq_length: int | None = None

    @classmethod
    def read(cls, directory: Path) -> Pooling | None:
        """The pooling that a sentence-transformers directory describes; None for any other directory.

        Raises:
            UserError: a module or the pooling is not supported.
        """
        modules_file = directory / MODULES_FILE
        if not modules_file.is_file():
            return None
        pooling, normalize = None, False
        for name, path in _modules(modules_file):
            if name == "Pooling":
                pooling = _kind(directory / path / "config.json")
            elif name == "Normalize":
                normalize = True
            elif name != "Transformer":
                raise UserError(f"{modules_file} has the module {name}, which is not supported: only pooling is.")
        if pooling is None:
            raise UserError(f"{modules_file} has no Pooling module: copy the model's directory again.")
        length_file = directory / LENGTH_FILE
        length = read_settings(length_file).get("max_seq_length") if length_file.is_file() else None
        return cls(pooling, normalize, length if isinstance(length, int) and length > 2 else None)

    @classmethod
    def find(cls, directory: Path) -> Pooling | None:
        """Like `read`, but warns and returns None if the directory is not supported."""
        try:
            return cls.read(directory)
        except UserError as error:
            warn(f"{error} Its pooling is ignored.")
            return None

    def files(self, hidden_size: int) -> dict[str, bytes]:
        """{path: content} of the files that make a model directory readable by sentence-transformers."""
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] * self.normalize)]
        listed = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ]
        modes = {mode: kind == self.kind for mode, kind in _MODES.items()}
        files: dict[str, Any] = {
            MODULES_FILE: listed,
            "1_Pooling/config.json": {"word_embedding_dimension": hidden_size, **modes, "include_prompt": True},
            LENGTH_FILE: {"max_seq_length": self.max_seq_length, "do_lower_case": False},
            PROMPTS_FILE: {
                "prompts": {},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
        }
        return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in files.items()}


def _modules(file: Path) -> list[tuple[str, str]]:
    """(class, directory) of each module that modules.json lists."""
    try:
        if file.stat().st_size > _MOST_MODULES_BYTES:
            raise ValueError("too large")
        found = [(str(module["type"]).rsplit(".", 1)[-1], module["path"]) for module in json.loads(file.read_bytes())]
        if any(not isinstance(path, str) or path != Path(path).name for _, path in found):
            raise ValueError("a path points outside the directory")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{file} is not a list of modules ({error}): copy it again.") from None
    return found


def _kind(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"{file} is missing: copy the model's directory again.")
    settings = read_settings(file)
    modes = [mode for mode in settings if mode.startswith("pooling_mode_") and settings[mode] is True]
    kinds = [_MODES.get(mode, "") for mode in modes]
    if len(kinds) != 1 or not kinds[0]:
        raise UserError(
            f"{file} asks for {', '.join(modes) or 'no pooling'}: exactly one of cls, mean and max is supported."
        )
    return kinds[0]
