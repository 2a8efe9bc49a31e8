"""Replaced-token detection (ELECTRA, Clark et al. 2020): its loss terms, and how it is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.model import BertConfig
from modeling.distillation import SoftTarget
from modeling.electra import ReplacedTokenModel
from tasks.masked_lm import MASKED_LM, MaskedLM
from training.terms import Figure, LossTerm
from utils.errors import UserError

_SHARES = ("rtd_replaced", "rtd_flagged", "rtd_found")
DETECTION = LossTerm(
    Figure("rtd_loss", "token_weights", in_log_line=True),
    labels=("sampling_draws", "token_weights"),
    others=(
        Figure("rtd_accuracy", "token_weights", in_log_line=True),
        *(Figure(name, "token_weights") for name in _SHARES),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens(MaskedLM):
    """A generator learns masked-LM, and a discriminator finds the tokens that it replaced."""

    model_class = ReplacedTokenModel
    model_terms = objective_terms = (MASKED_LM, DETECTION)

    def __post_init__(self) -> None:
        unpadded = self.config.batch.without_padding
        if unpadded:
            raise UserError(
                f"{unpadded} is not available with --objective rtd, because the sampled tokens are placed in rows of "
                "one length: use --padding longest."
            )

    def build(self, bert: BertConfig, seed: int) -> ReplacedTokenModel:
        """The discriminator and the generator with initial weights."""
        flags = self.config.data
        return ReplacedTokenModel(bert, seed, flags.generator_width, flags.rtd_weight)

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        """None: a teacher would have to replace the same tokens."""
        return ()

    @property
    def log_line(self) -> tuple[str, ...]:
        """As for every task, with precision and recall of the detection."""
        *names, throughput = super().log_line
        return (*names, "rtd_precision", "rtd_recall", throughput)

    def row(self, outputs: Mapping[str, float]) -> dict[str, float]:
        """As for every task, with precision and recall in place of shares of tokens."""
        return precision_and_recall(super().row(outputs))

    def metrics(self, means: Mapping[str, float], losses: Sequence[str]) -> dict[str, float]:
        """As for masked-LM, with precision and recall, and with the loss that training minimizes."""
        metrics = super().metrics(precision_and_recall(means), losses)
        if "rtd_loss" in means:
            metrics["eval_total_loss"] = means["mlm_loss"] + self.config.data.rtd_weight * means["rtd_loss"]
        return metrics


def precision_and_recall(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with `rtd_precision` and `rtd_recall` in place of the shares that they are made of.

    Precision is 0 where no token is called replaced, and recall where none was replaced.
    """
    kept = {name: value for name, value in figures.items() if name not in _SHARES}
    if not set(_SHARES) <= set(figures):
        return kept
    replaced, flagged, found = (figures[name] for name in _SHARES)
    return kept | {
        "rtd_precision": found / flagged if flagged else 0.0,
        "rtd_recall": found / replaced if replaced else 0.0,
    }
