"""Loads checkpoints of lazy OneFlow into modules, and compares the outputs of a lazy checkpoint and a converted one.

python3 utils/compare_lazy_outputs.py --lazy_path LAZY_DIR --model_path CONVERTED_DIR
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, find the project's packages one level up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.checks import given
from configs.cli import flag, parse, run
from utils.errors import UserError

_BATCH, _SEQ_LENGTH = 3, 23


@dataclass(frozen=True)
class CompareConfig:
    """Two checkpoints of one model."""

    lazy_path: str = flag("", "checkpoint of lazy OneFlow", metavar="DIR")
    model_path: str = flag("", "converted checkpoint, in any format", aliases=("model_name_or_path",), metavar="MODEL")
    config_file: str | None = flag(None, "configuration file for both checkpoints", aliases=("config",))
    num_attention_heads: int | None = flag(
        None, "attention heads, if no configuration contains them", default_text="hidden size / 64"
    )
    trust_checkpoint: bool = flag(False, "trust the checkpoints: allow formats that need unpickling")

    def __post_init__(self) -> None:
        given(self, "lazy_path", "model_path")


def load_params_from_lazy(model: Any, path: str | Path) -> None:
    """Copies a lazy checkpoint into a module, or into the tensors of its `state_dict()`.

    Args:
        model: a module of `modeling`, or a state dict with its names.
        path: the lazy checkpoint, with or without `meta` files.

    Raises:
        UserError: the path is not a lazy checkpoint, or tensors are missing or have a different shape.
    """
    import oneflow as flow

    from conversion import load_any

    # The number of heads does not affect any shape, so 1 works if it is unknown.
    _, state = load_any(path, source="lazy", config={"num_attention_heads": 1})
    if not isinstance(model, Mapping):
        model.load_arrays(state, source=str(path))
        return
    for name, array in state.items():
        if name in model:
            if tuple(model[name].shape) != array.shape:
                raise UserError(
                    f"{path}: {name} has shape {list(array.shape)}, but the model's has {list(model[name].shape)}: "
                    "load the checkpoint into a model of its size."
                )
            model[name].copy_(flow.from_numpy(array))


def largest_differences(config: CompareConfig) -> dict[str, float]:
    """{output: the largest absolute difference between the two models on one random batch}."""
    import numpy as np

    from conversion import read_checkpoint
    from inference.model import build

    sizes = {"num_attention_heads": config.num_attention_heads} if config.num_attention_heads else {}
    options: dict[str, Any] = {"config": config.config_file, "sizes": sizes, "trust": config.trust_checkpoint}
    converted = read_checkpoint(config.model_path, **options)
    # A lazy directory often has no configuration; then that of the converted checkpoint gives the number of heads.
    lazy = read_checkpoint(config.lazy_path, "lazy", **options | {"config": config.config_file or converted.settings})
    if lazy.state.keys() != converted.state.keys():
        other = sorted(lazy.state.keys() ^ converted.state.keys())
        raise UserError(f"only one of the checkpoints has {other[0]}: they are not the same model.")

    import oneflow as flow

    shape = converted.config
    random = np.random.default_rng(0)
    size = (_BATCH, min(_SEQ_LENGTH, shape.max_position_embeddings))
    batch = {
        "input_ids": random.integers(0, shape.vocab_size, size, np.int32),
        "input_mask": (np.arange(size[1]) < np.linspace(size[1] // 2, size[1], _BATCH)[:, None]).astype(np.int32),
        "segment_ids": random.integers(0, shape.type_vocab_size, size, np.int32),
    }
    outputs = []
    for checkpoint in (lazy, converted):
        with flow.no_grad():
            made = build(checkpoint).eval()(**{name: flow.from_numpy(array) for name, array in batch.items()})
        outputs.append({name: value.numpy() for name, value in made.items()})
    return {name: float(np.abs(outputs[0][name] - outputs[1][name]).max()) for name in outputs[0]}


def main() -> None:
    for name, difference in largest_differences(parse(CompareConfig, description=__doc__ or "")).items():
        print(f"{name:24} {difference:.3g}")


if __name__ == "__main__":
    run(main)
