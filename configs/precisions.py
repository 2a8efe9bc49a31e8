"""Flags of compare_precisions.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import at_least
from configs.cli import flag
from utils.errors import UserError

PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class PrecisionsConfig:
    """Which model to compare with itself in lower precision, and on what."""

    model_path: str = flag("", "a model directory, a run's output directory, or a checkpoint of any format")
    vocab_file: str | None = flag(None, "vocabulary, in place of the model directory's vocab.txt")
    trust_checkpoint: bool = flag(False, "the checkpoint is trusted: allow formats that are read by unpickling")
    precisions: tuple[str, ...] = flag(("int8",), "precisions to compare with fp32")
    int8_keep: tuple[str, ...] = flag(
        (), "int8: products left in higher precision, such as output (every layer's) or 3.output (one layer's)"
    )
    squad_file: str | None = flag(None, "SQuAD questions with answers: compares exact match and F1")
    glue_task: str | None = flag(None, "a GLUE task: compares its metrics on the development sets under --data_dir")
    data_dir: str | None = flag(None, "GLUE's directory, or the task's own")
    input_path: str | None = flag(
        None, "texts, one a line: compares the likeliest token of texts with [MASK], and the vectors of all others"
    )
    max_rows: int | None = flag(None, "questions or texts to compare, at most (default: all)")
    num_threads: int | None = flag(None, "CPU threads (default: all cores)")

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model_path is missing: name a model directory or a checkpoint.")
        at_least(self, 1, "max_rows", "num_threads")
        for name in self.precisions:
            if name not in PRECISIONS:
                raise UserError(f"--precisions {name} is unknown: use {', '.join(PRECISIONS[1:])}.")
        if sum(given is not None for given in (self.squad_file, self.glue_task, self.input_path)) != 1:
            raise UserError("give one of --squad_file, --glue_task and --input_path.")
        if (self.glue_task is None) != (self.data_dir is None):
            raise UserError("--glue_task and --data_dir belong together: give both.")
