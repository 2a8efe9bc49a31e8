"""Checkpoints, each complete or absent: `checkpoint-STEP/` is written under another name, synced and renamed.

checkpoint-120/
  config.json model.safetensors     a model directory, for Hugging Face too
  vocab.txt tokenizer.json tokenizer_config.json special_tokens_map.json
  training_state/state.json             step, records taken, seed
  training_state/optimizer.safetensors  "<parameter>.m" and "<parameter>.v"; a compiled job's counters and loss scale
latest                                  the name of the newest one
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from modeling.pretrained import PretrainedModel, read_weights, write_weights
from utils.checkpoints import LATEST, checkpoint_step, checkpoints
from utils.errors import UserError

STATE_FILE, OPTIMIZER_FILE = "training_state/state.json", "training_state/optimizer.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after `step` updates."""

    step: int
    records_taken: int  # of the endless sequence of records, by all ranks
    seed: int
    group: int | None = None  # consecutive records of similar length, if lengths are known; fixed for the whole run


def save_checkpoint(
    directory: Path,
    model: PretrainedModel,
    arrays: dict[str, np.ndarray],
    optimizer_state: dict[str, np.ndarray],
    state: TrainingState,
    *,
    tokenizer: Mapping[str, bytes],
    keep_last: int,
    kept_steps: Collection[int] = (),
) -> Path:
    """Writes `directory/checkpoint-STEP`, points `latest` at it, and removes old checkpoints.

    Args:
        directory: of the run.
        model: gives the configuration.
        arrays: the model's parameters (`model.to_arrays()`), given so that only the first rank writes.
        optimizer_state, state: for resuming.
        tokenizer: its files, {name: content}.
        keep_last: how many checkpoints stay, the newest ones; 0: all.
        kept_steps: checkpoints after these numbers of updates are not counted and not removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"checkpoint-{state.step}"
    partial = directory / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial, arrays, tokenizer)
        (partial / STATE_FILE).parent.mkdir()
        write_weights(partial / OPTIMIZER_FILE, optimizer_state)
        (partial / STATE_FILE).write_text(json.dumps(asdict(state), indent=2) + "\n")
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # frees the space on a full disk
        raise
    if final.exists():  # after a resume from an older checkpoint
        shutil.rmtree(final)
    partial.rename(final)
    write_text_atomically(directory / LATEST, final.name + "\n")
    removable = [path for path in checkpoints(directory) if checkpoint_step(path) not in kept_steps]
    for old in removable[:-keep_last] if keep_last else []:
        leaving = directory / f".{old.name}.leaving"  # a half-removed one must not pass for a checkpoint
        shutil.rmtree(leaving, ignore_errors=True)  # a killed run may have left one
        old.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
    return final


def load_training_state(checkpoint: Path) -> tuple[TrainingState, dict[str, np.ndarray]]:
    """The run's state and the optimizer's moments; raises UserError for a damaged checkpoint."""
    try:
        state = TrainingState(**json.loads((checkpoint / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint / STATE_FILE} is not a training state ({error}): resume an older one.") from None
    return state, read_weights(checkpoint / OPTIMIZER_FILE)


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces a small file, completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
