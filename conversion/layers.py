"""A shallower model made of some layers of another one, such as the student of a distillation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from conversion.checkpoint import Checkpoint
from conversion.names import State
from utils.errors import UserError

_LAYER = re.compile(r"^bert\.encoder\.layer\.(\d+)\.")


def keep_layers(checkpoint: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The checkpoint with only these encoder layers, numbered from 0, in this order; all else stays as it is.

    DistilBERT starts from every other layer of its teacher (Sanh et al. 2019).

    Raises:
        UserError: the model has no layer of that number.
    """
    count = checkpoint.config.num_hidden_layers
    if max(layers) >= count:
        raise UserError(f"--keep_layers {max(layers)} is not a layer of the model, which has 0 to {count - 1}.")
    numbers = {old: new for new, old in enumerate(layers)}
    state: State = {}
    for name, array in checkpoint.state.items():
        layer = _LAYER.match(name)
        if layer is None:
            state[name] = array
        elif int(layer[1]) in numbers:
            state[_LAYER.sub(f"bert.encoder.layer.{numbers[int(layer[1])]}.", name)] = array
    settings = {**checkpoint.settings, "num_hidden_layers": len(layers)}
    config = replace(checkpoint.config, num_hidden_layers=len(layers))
    return replace(checkpoint, config=config, state=state, settings=settings)
