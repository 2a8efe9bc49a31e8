"""Which files belong to a model directory, so that no others are downloaded or removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.pooling import POOLING_FILES
from conversion.byte_level import BYTE_LEVEL_FILES
from conversion.tokenizer_files import TOKENIZER_FILES

# All but the weights; `*` stands for any name.
SETTINGS_FILES = ("config.json", *TOKENIZER_FILES, *BYTE_LEVEL_FILES, *POOLING_FILES)


def foreign_files(directory: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files and symbolic links below a directory whose path in it matches none of the patterns."""
    for path in sorted(directory.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        inside = path.relative_to(directory)
        known = any(len(inside.parts) == len(Path(each).parts) and inside.match(each) for each in patterns)
        if path.is_symlink() or not known:
            yield path
