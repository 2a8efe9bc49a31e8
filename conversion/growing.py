"""Extends a checkpoint's embeddings to new words and more positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conversion.checkpoint import Checkpoint
from conversion.names import rows
from conversion.tokenizer_files import read_vocabulary
from utils.errors import UserError

_MOST_POSITIONS = 1 << 17


def grow_vocabulary(checkpoint: Checkpoint, vocab_file: str | Path) -> Checkpoint:
    """Adds embeddings for the new entries of a vocabulary that extends the checkpoint's.

    The row of a new word is the mean of the rows of its pieces in the old vocabulary; the same holds for its bias in
    the masked-LM head. Existing rows do not change. If the vocabulary does not extend the checkpoint's, the checkpoint
    is returned unchanged.
    """
    if checkpoint.vocab_file is None:
        return checkpoint
    old = read_vocabulary(checkpoint.vocab_file)
    new = read_vocabulary(vocab_file, settings_in=checkpoint.directory)
    if old.byte_level or new.byte_level:
        return checkpoint
    known = len(old.tokens)
    if len(new.tokens) == known or list(new.tokens[:known]) != list(old.tokens):
        return checkpoint
    pieces = [_pieces(token.strip(), old.ids) for token in new.tokens[known:]]
    size = max(checkpoint.config.vocab_size, len(new.tokens))

    def grown(table: np.ndarray) -> np.ndarray:
        larger = np.zeros((size, *table.shape[1:]), np.float32)
        larger[: len(table)] = table
        for number, ids in enumerate(pieces, known):
            larger[number] = table[ids].mean(axis=0, dtype=np.float64)
        return larger

    return _with_tables(checkpoint, "V", grown, vocab_size=size)


def extend_positions(checkpoint: Checkpoint, positions: int, rule: str) -> Checkpoint:
    """Adds embeddings for more positions.

    Args:
        checkpoint: with "repeat", its existing positions do not change.
        positions: the new number.
        rule: "repeat" copies the table repeatedly (as Longformer is initialized, Beltagy et al. 2020);
            "interpolate" stretches it linearly, so that the first and the last position keep their vectors.

    Raises:
        UserError: the number is not above the checkpoint's, or its position embeddings are sinusoidal.
    """
    now = checkpoint.config.max_position_embeddings
    if not now < positions <= _MOST_POSITIONS:
        raise UserError(
            f"--max_position_embeddings {positions} must be above the {now} positions of {checkpoint.path} and at most "
            f"{_MOST_POSITIONS}."
        )
    if checkpoint.config.position_embeddings != "learned":
        raise UserError(f"{checkpoint.path} has sinusoidal position embeddings: omit --max_position_embeddings.")

    def grown(table: np.ndarray) -> np.ndarray:
        if rule == "repeat":
            return np.ascontiguousarray(table[np.arange(positions) % now])
        place = np.arange(positions) * ((now - 1) / (positions - 1))
        below = np.minimum(place.astype(np.int64), now - 2) if now > 1 else np.zeros(positions, np.int64)
        above = np.minimum(below + 1, now - 1)
        share = (place - below)[:, None]
        return (table[below] * (1 - share) + table[above] * share).astype(np.float32)

    return _with_tables(checkpoint, "L", grown, max_position_embeddings=positions)


def _with_tables(
    checkpoint: Checkpoint, axis: str, grown: Callable[[np.ndarray], np.ndarray], **sizes: Any
) -> Checkpoint:
    """Replaces every tensor whose first axis is `axis`, and the sizes in the configuration."""
    names = {row.name for row in rows(checkpoint.config.num_hidden_layers) if row.axes.startswith(axis)}
    state = {name: grown(array) if name in names else array for name, array in checkpoint.state.items()}
    return replace(checkpoint, state=state, config=replace(checkpoint.config, **sizes))


def _pieces(token: str, ids: Mapping[str, int]) -> list[int]:
    """The ids of a token's pieces by greedy longest match; [UNK] if the token has no pieces."""
    inner, rest = token.startswith("##"), token.removeprefix("##")
    found: list[int] = []
    while rest:
        prefix = "##" if inner else ""
        length = next((end for end in range(len(rest), 0, -1) if f"{prefix}{rest[:end]}" in ids), 0)
        if not length:
            return [ids["[UNK]"]]
        found.append(ids[f"{prefix}{rest[:length]}"])
        inner, rest = True, rest[length:]
    return found or [ids["[UNK]"]]
