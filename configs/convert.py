"""Flags of convert_checkpoint.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import given, local
from configs.cli import flag

_FORMATS = ("tf", "hf", "lazy", "oneflow")


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion between checkpoint formats."""

    input: str = flag(
        "",
        "checkpoint to convert: a model directory, a weights file, a TensorFlow prefix or a run's output directory",
        aliases=("model_name_or_path",),
        metavar="MODEL",
    )
    output: str = flag("", "directory to write; it appears once all its files have been read back", metavar="DIR")
    from_format: str = flag("auto", "format of the input", aliases=("from",), choices=("auto", *_FORMATS))
    to_format: str = flag("hf", "format of the output", aliases=("to",), choices=_FORMATS)
    config_file: str | None = flag(
        None, "model configuration (bert_config.json or config.json) to use instead of the input's", aliases=("config",)
    )
    vocab_file: str | None = flag(None, "vocabulary to write instead of the input's")
    allow_partial: bool = flag(False, "skip tensors that are missing or have another shape")
    trust_checkpoint: bool = flag(False, "trust the input: allow formats that need unpickling")
    overwrite_output_dir: bool = flag(False, "replace the files in the output directory")

    def __post_init__(self) -> None:
        given(self, "input", "output")
        local(self, "output")
