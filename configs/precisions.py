"""Flags of compare_precisions.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import at_least
from configs.cli import flag
from utils.errors import UserError

PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class PrecisionsConfig:
    """The flags of compare_precisions.py."""

    model_path: str = flag("", "model directory, output directory of a run, or checkpoint of any format")
    vocab_file: str | None = flag(None, "vocabulary to use instead of the model directory's")
    trust_checkpoint: bool = flag(False, "trust the checkpoint: read flow.save directories, which contain a pickle")
    precisions: tuple[str, ...] = flag(("int8",), "precisions to compare with fp32")
    int8_keep: tuple[str, ...] = flag(
        (),
        "with int8: products to keep in higher precision, such as output (in every layer) or 3.output (in one layer)",
    )
    squad_file: str | None = flag(None, "SQuAD file with answers: compare exact match and F1")
    glue_task: str | None = flag(None, "GLUE task: compare its metrics on the development sets in --data_dir")
    data_dir: str | None = flag(None, "directory of the GLUE download, or the directory of one task")
    input_path: str | None = flag(
        None,
        "file of texts, one per line: compare the most likely tokens for [MASK], and the vectors of texts without it",
    )
    max_rows: int | None = flag(None, "maximum number of questions or texts (default: all)")
    num_threads: int | None = flag(None, "CPU threads (default: all cores)")

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model_path is missing: pass a model directory or a checkpoint.")
        at_least(self, 1, "max_rows", "num_threads")
        for name in self.precisions:
            if name not in PRECISIONS:
                raise UserError(f"--precisions {name} is unknown: use {', '.join(PRECISIONS[1:])}.")
        if sum(given is not None for given in (self.squad_file, self.glue_task, self.input_path)) != 1:
            raise UserError("pass exactly one of --squad_file, --glue_task and --input_path.")
        if (self.glue_task is None) != (self.data_dir is None):
            raise UserError("--glue_task and --data_dir must be used together: pass both.")
