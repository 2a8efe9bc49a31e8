"""Flags of convert_checkpoint.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.cli import flag
from utils.errors import UserError

_FORMATS = ("tf", "hf", "lazy", "oneflow")


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion between checkpoint formats."""

    input: str = flag("", "model directory, weights file, TensorFlow prefix or run directory to convert")
    output: str = flag("", "directory to write; it appears once everything in it has been read back")
    from_format: str = flag("auto", "format of the input", aliases=("from",), choices=("auto", *_FORMATS))
    to_format: str = flag("hf", "format of the output", aliases=("to",), choices=_FORMATS)
    config_file: str | None = flag(
        None, "model configuration (bert_config.json or config.json) to use instead of the input's", aliases=("config",)
    )
    vocab_file: str | None = flag(None, "vocabulary to write instead of the input's")
    allow_partial: bool = flag(False, "convert without the tensors that are missing or have another shape")
    trust_checkpoint: bool = flag(False, "allow formats that are read by unpickling: the input can be trusted")
    overwrite_output_dir: bool = flag(False, "replace an earlier conversion in the output directory")

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: see --help.")
