"""Flags for distillation from a teacher model, shared by all training commands."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import above, at_least, at_most
from configs.cli import flag
from utils.errors import UserError


@dataclass(frozen=True)
class DistillationFlags:
    """Distillation: learning from a teacher model."""

    teacher: str | None = flag(
        None,
        "also learn from this model: a checkpoint in any format that --init_checkpoint reads, trained for the same "
        "task and with the same vocabulary",
        default_text="no distillation",
        metavar="MODEL",
    )
    distill_weight: float = flag(
        0.5,
        "with --teacher: weight of the loss against the teacher's outputs (soft targets), at most 1; the loss against "
        "the labels has 1 minus this weight",
    )
    distill_temperature: float = flag(
        2.0, "with --teacher: divides the logits of both models before their probabilities are compared"
    )
    distill_hidden_weight: float = flag(
        0.0,
        "with --teacher: weight of the mean squared error between hidden states (TinyBERT); a projection is learned if "
        "the widths differ; 0 disables it",
    )
    distill_attention_weight: float = flag(
        0.0,
        "with --teacher: weight of the divergence between the query, key and value relations of the model's last layer "
        "and those of its teacher layer (MiniLMv2); 0 disables it",
    )
    teacher_layers: tuple[int, ...] = flag(
        (),
        "with --teacher: the teacher's layer for each layer of the model, numbered from 0; by default they are evenly "
        "spaced and end with the last one",
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "distill_weight", "distill_hidden_weight", "distill_attention_weight")
        at_most(self, 1, "distill_weight")
        above(self, 0, "distill_temperature")
        if any(layer < 0 for layer in self.teacher_layers):
            raise UserError(f"--teacher_layers must be at least 0, not {min(self.teacher_layers)}.")
        weights = self.distill_weight, self.distill_hidden_weight, self.distill_attention_weight
        if self.teacher and not any(weights):
            raise UserError(
                "--teacher has no effect, because all weights are 0: set --distill_weight, --distill_hidden_weight or "
                "--distill_attention_weight."
            )
        if not self.teacher and (self.teacher_layers or any(weights[1:])):
            raise UserError(
                "--teacher is missing: --teacher_layers, --distill_hidden_weight and --distill_attention_weight need a "
                "teacher."
            )
