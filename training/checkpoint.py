"""Writes and reads checkpoints. A checkpoint with NaN or infinite numbers is never written.

A checkpoint is written under a temporary name, synced and renamed (utils/atomic_files.py), so it is complete or absent:

checkpoint-120/
  config.json model.safetensors     a model directory, for Hugging Face too
  training_only.safetensors         with --teacher, the projection between different widths; with
                                        --span_boundary_objective, its head
  vocab.txt tokenizer.json tokenizer_config.json special_tokens_map.json
  training_state/state.json             step, records taken, seed, group; with --train_hours, the clock; with --packing
                                        best_fit, the tokens of a packed row
  training_state/optimizer.safetensors  "<parameter>.m" and "<parameter>.v"; a compiled job's counters and loss scale;
                                        with --skip_loss_spikes, the gradient norms of recent updates;
                                        with --ema_decay, "<parameter>.ema"; with --swa_start, "<parameter>.swa"
latest                                  the name of the newest checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from configs.checks import MOST_SEED
from modeling.pretrained import PretrainedModel, read_weights, write_weights
from training.finiteness import check_finite
from training.time_budget import Clock, stored_clock
from utils.atomic_files import atomic_directory, remove, write_atomically
from utils.checkpoints import LATEST, checkpoint_step, checkpoints
from utils.errors import UserError
from utils.json_file import read_settings

STATE_FILE, OPTIMIZER_FILE = "training_state/state.json", "training_state/optimizer.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """The position of a run after `step` updates."""

    step: int
    records_taken: int  # from the endless sequence of records or, with --packing best_fit, of packed rows, by all ranks
    seed: int
    group: int | None = None  # consecutive records of similar length, if lengths are known; fixed for the whole run
    clock: Clock | None = None  # of a run with --train_hours
    row_tokens: int | None = None  # of a packed row, with --packing best_fit


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
        directory: the run's checkpoint directory.
        model: provides the configuration.
        arrays: the model's parameters (`model.to_arrays()`, which all ranks must call, while only the first writes).
        optimizer_state, state: the state for resuming.
        tokenizer: the tokenizer's files, {name: content}.
        keep_last: the number of newest checkpoints to keep; 0 keeps all.
        kept_steps: checkpoints after these numbers of updates are neither counted nor removed.

    Raises:
        NotFiniteError: a weight or an optimizer moment is NaN or infinite.
    """
    check_finite(arrays, f"the weights after {state.step} updates")
    check_finite(optimizer_state, f"the optimizer's state after {state.step} updates")
    final = directory / f"checkpoint-{state.step}"
    with atomic_directory(final) as partial:
        model.save_pretrained(partial, arrays, tokenizer)
        (partial / STATE_FILE).parent.mkdir()
        write_weights(partial / OPTIMIZER_FILE, optimizer_state)
        optional = ("clock", "row_tokens")
        content = {name: value for name, value in asdict(state).items() if value is not None or name not in optional}
        (partial / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n")
    point_latest_at(final)
    # Later checkpoints, from before a resume at an earlier step, are kept until the run reaches their steps.
    earlier = [path for path in checkpoints(directory) if checkpoint_step(path) <= state.step]
    removable = [path for path in earlier if checkpoint_step(path) not in kept_steps]
    for old in removable[:-keep_last] if keep_last else []:
        remove(old)
    return final


def point_latest_at(checkpoint: Path) -> None:
    """Makes `checkpoint` the one that --resume continues from."""
    write_atomically(checkpoint.parent / LATEST, f"{checkpoint.name}\n".encode())


def load_training_state(checkpoint: Path) -> tuple[TrainingState, dict[str, np.ndarray]]:
    """The run's state and the optimizer's moments; raises UserError for a damaged checkpoint."""
    file = checkpoint / STATE_FILE
    content = read_settings(file)
    try:
        clock = stored_clock(content.pop("clock")) if "clock" in content else None
        state = TrainingState(**content)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} is not a training state ({error}): resume an older checkpoint.") from None
    for name, value in content.items():
        least = 1 if name in ("group", "row_tokens") else 0
        if not (type(value) is int and least <= value <= MOST_SEED) and (name, value) != ("group", None):
            raise UserError(
                f"{file}: {name} must be a whole number of {least} or more, not {str(value)[:40]!r}: resume an older "
                "checkpoint."
            )
    if not (checkpoint / OPTIMIZER_FILE).is_file():
        raise UserError(f"{checkpoint / OPTIMIZER_FILE} is not a file: resume an older checkpoint.")
    return replace(state, clock=clock), read_weights(checkpoint / OPTIMIZER_FILE)
