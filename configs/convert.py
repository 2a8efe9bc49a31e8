"""Flags of convert_checkpoint.py."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from configs.checks import given, local
from configs.cli import flag
from utils.errors import UserError

_TASKS = (
    "feature-extraction",
    "fill-mask",
    "next-sentence",
    "question-answering",
    "text-classification",
    "token-classification",
)
_FORMATS = ("tf", "hf", "lazy", "oneflow", "onnx")


@dataclass(frozen=True)
class ConvertConfig:
    """The flags of convert_checkpoint.py."""

    input: str = flag(
        "",
        "checkpoint to convert: a model directory, a weights file, a TensorFlow prefix or a run's output directory",
        aliases=("model_name_or_path",),
        metavar="MODEL",
    )
    output: str = flag("", "output directory; it appears only after all its files were read back", metavar="DIR")
    from_format: str = flag("auto", "format of the input", aliases=("from",), choices=("auto", *_FORMATS, "flax"))
    to_format: str = flag("hf", "format of the output", aliases=("to",), choices=_FORMATS)
    config_file: str | None = flag(
        None, "model configuration (bert_config.json or config.json) to use instead of the input's", aliases=("config",)
    )
    onnx_task: str = flag(
        "auto",
        "with --to onnx: the task of the graph; auto uses the model's head",
        choices=("auto", *_TASKS),
    )
    onnx_precision: str = flag(
        "fp32",
        "with --to onnx: int8 stores matrices as 8-bit integers and quantizes activations at run time",
        choices=("fp32", "int8"),
    )
    calibration_path: str | None = flag(
        None,
        "with --onnx_precision int8: file of texts, one per line, for computing fixed activation scales (a QDQ graph)",
    )
    vocab_file: str | None = flag(
        None,
        "vocabulary to write instead of the input's; if it extends the input's with new words (prepare_data.py vocab "
        "--extend), the embedding of a new word is the mean of its old pieces' embeddings",
    )
    max_position_embeddings: int | None = flag(
        None, "extend the position embeddings to this number", default_text="the input's", unit="positions"
    )
    position_rule: str = flag(
        "repeat",
        "--max_position_embeddings: repeat the position embeddings, or interpolate between them",
        choices=("repeat", "interpolate"),
    )
    keep_layers: str | None = flag(
        None,
        "keep only these encoder layers, numbered from 0 and separated by commas, such as 0,2,4: the start of a "
        "shallower model",
        default_text="all",
        metavar="N,N,…",
    )
    allow_partial: bool = flag(False, "skip tensors that are missing or have a different shape")
    trust_checkpoint: bool = flag(False, "trust the input: read flow.save directories, which contain a pickle")
    overwrite_output_dir: bool = flag(False, "replace an earlier conversion in the output directory")

    def __post_init__(self) -> None:
        given(self, "input", "output")
        for name, default in (("onnx_task", "auto"), ("onnx_precision", "fp32")):
            if getattr(self, name) != default and self.to_format != "onnx":
                raise UserError(f"--{name} {getattr(self, name)} needs --to onnx, not --to {self.to_format}.")
        if self.calibration_path and self.onnx_precision != "int8":
            raise UserError("--calibration_path needs --onnx_precision int8.")
        _ = self.kept_layers
        local(self, "output")

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """The numbers in --keep_layers; () if it is not given.

        Raises:
            UserError: they are not whole numbers in rising order.
        """
        words = self.keep_layers.split(",") if self.keep_layers is not None else []
        if not all(re.fullmatch(r"\d{1,4}", word) for word in words):
            raise UserError(f"--keep_layers must be numbers and commas, such as 0,2,4, not {self.keep_layers}.")
        numbers = tuple(map(int, words))
        if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
            raise UserError(f"--keep_layers must name each layer once, in rising order, not {self.keep_layers}.")
        return numbers
