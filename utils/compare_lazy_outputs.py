"""Lazy OneFlow checkpoints in today's modules, and the proof that a converted model computes the same.

python3 utils/compare_lazy_outputs.py --lazy_path LAZY_DIR --model_path CONVERTED_DIR
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, the project's rooms are one level up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.cli import flag, parse, run
from utils.errors import UserError

_BATCH, _SEQ_LENGTH = 3, 23


@dataclass(frozen=True)
class CompareConfig:
    """Two checkpoints of one model."""

    lazy_path: str = flag("", "the lazy checkpoint")
    model_path: str = flag("", "the converted model, of any format")
    config_file: str | None = flag(None, "the model's configuration file, for both", aliases=("config",))
    num_attention_heads: int | None = flag(None, "where no configuration tells it (default: hidden size / 64)")
    trust_checkpoint: bool = flag(False, "allow formats that are read by unpickling")

    def __post_init__(self) -> None:
        for name in ("lazy_path", "model_path"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: see --help.")


def load_params_from_lazy(model: Any, path: str | Path) -> None:
    """Copies a lazy checkpoint into a module, or into the tensors of its `state_dict()`.

    Args:
        model: any of `modeling`'s modules, or a state dict with their names.
        path: the lazy checkpoint, with `meta` files or without.

    Raises:
        UserError: it is none, or its tensors are missing or of another shape.
    """
    import oneflow as flow

    from conversion import load_any

    # Heads do not shape any tensor, so one will do where nothing tells their number.
    _, state = load_any(path, source="lazy", config={"num_attention_heads": 1})
    if not isinstance(model, Mapping):
        model.load_arrays(state, source=str(path))
        return
    for name, array in state.items():
        if name in model:
            if tuple(model[name].shape) != array.shape:
                raise UserError(f"{path}: {name} is {list(array.shape)}, the model's {list(model[name].shape)}.")
            model[name].copy_(flow.from_numpy(array))


def largest_differences(config: CompareConfig) -> dict[str, float]:
    """{output: largest difference of the two models on one random batch}."""
    import numpy as np

    from conversion import read_checkpoint
    from inference.model import build

    sizes = {"num_attention_heads": config.num_attention_heads} if config.num_attention_heads else {}
    options: dict[str, Any] = {"config": config.config_file, "sizes": sizes, "trust": config.trust_checkpoint}
    converted = read_checkpoint(config.model_path, **options)
    # A lazy directory often has no configuration: the converted one's then says how many heads there are.
    lazy = read_checkpoint(config.lazy_path, "lazy", **options | {"config": config.config_file or converted.settings})
    if lazy.state.keys() != converted.state.keys():
        other = sorted(lazy.state.keys() ^ converted.state.keys())
        raise UserError(f"only one of the two models has {other[0]}: they are not the same model.")

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
