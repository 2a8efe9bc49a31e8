"""Masked-LM, with or without a second task on sentence pairs: its loss terms and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from configs.pretraining import PretrainingConfig
from evaluation.masked_lm import masked_lm_metrics
from modeling import BertForPreTraining
from modeling.distillation import SoftTarget
from modeling.pretrained import PretrainedModel
from modeling.span_boundary import BertForSpanPreTraining
from training.evaluator import Evaluator, Say
from training.run_directory import RunDirectory
from training.task import Task
from training.terms import EXAMPLE_WEIGHTS, INPUTS, Figure, LossTerm, features_of, figures_of
from utils.atomic_files import write_atomically
from utils.file_lock import check_still_there

EVALUATION_FILE = "eval_results.txt"
MASKED_LM = LossTerm(
    Figure("mlm_loss", "masked_lm_weights", in_log_line=True),
    labels=("masked_lm_ids", "masked_lm_weights"),
    others=(Figure("mlm_accuracy", "masked_lm_weights"),),
)


SPAN_BOUNDARY = LossTerm(
    Figure("sbo_loss", "masked_lm_weights", in_log_line=True),
    labels=("span_boundaries", "span_offsets"),
    others=(Figure("sbo_accuracy", "masked_lm_weights"),),
    parameters=("span_boundary.",),
)


def _sentence_pair(name: str) -> LossTerm:
    """The loss term of a second task with this name. The model computes both second tasks in the same way."""
    loss, accuracy = f"{name}_loss", f"{name}_accuracy"
    return LossTerm(
        Figure("nsp_loss", EXAMPLE_WEIGHTS, label=loss, evaluated_as=loss, in_log_line=True),
        labels=("next_sentence_labels",),
        others=(Figure("nsp_accuracy", EXAMPLE_WEIGHTS, label="pred_acc", evaluated_as=accuracy, in_log_line=True),),
        parameters=("bert.pooler.", "cls.seq_relationship."),
    )


NEXT_SENTENCE, SENTENCE_ORDER = _sentence_pair("nsp"), _sentence_pair("sop")


@dataclass(frozen=True, kw_only=True)
class MaskedLM(Task):
    """Masked-LM without a second task."""

    model_class = BertForPreTraining
    model_terms: ClassVar[tuple[LossTerm, ...]] = (
        MASKED_LM,
        NEXT_SENTENCE,
        SPAN_BOUNDARY,
    )  # all that the model can compute
    objective_terms: ClassVar[tuple[LossTerm, ...]] = (MASKED_LM,)  # the terms that the records have labels for
    judged_by = "eval_total_loss"
    inputs = (*INPUTS, "masked_lm_positions")

    config: PretrainingConfig

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        flags = self.config.data
        skipped = {MASKED_LM: flags.skip_mlm, NEXT_SENTENCE: flags.skip_nsp, SENTENCE_ORDER: flags.skip_nsp}
        terms = tuple(term for term in self.objective_terms if not skipped.get(term))
        return (*terms, SPAN_BOUNDARY) if flags.span_boundary_objective else terms

    @property
    def plain_class(self) -> type[PretrainedModel]:
        return BertForSpanPreTraining if self.config.data.span_boundary_objective else self.model_class

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        """The scores behind each loss term."""
        scores = {"mlm_loss": "prediction_scores", "nsp_loss": "seq_relationship_score"}
        return tuple(
            SoftTarget(scores[term.loss.output], term.loss.weights, parameters=term.parameters or ("cls.predictions.",))
            for term in self.terms
            if term.loss.output in scores
        )

    @property
    def evaluation_terms(self) -> tuple[LossTerm, ...]:
        """The terms that are evaluated."""
        return tuple(term for term in self.terms if term == MASKED_LM or not self.config.data.eval_only_mlm)

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        used = {term.loss.output for term in self.evaluation_terms}
        unused = (term for term in self.model_terms if term.loss.output not in used)
        return tuple(prefix for term in unused for prefix in term.parameters)

    def metrics(self, means: Mapping[str, float], losses: Sequence[str]) -> dict[str, float]:
        """The figures of an evaluation, from the means over the set; `losses` names those that are minimized."""
        return masked_lm_metrics(means, losses)

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The metrics of the held-out records, which are also written to eval_results.txt."""
        (held_out,) = self.evaluation
        terms = self.evaluation_terms
        means = evaluator.means(held_out, terms, features_of(self.inputs, terms), say)
        names = {figure.output: figure.evaluation_name for figure in figures_of(terms)}
        named = {names[output]: value for output, value in means.items()}
        metrics = self.metrics(named, [term.loss.evaluation_name for term in terms])
        if evaluator.world.shape.is_first:
            output = RunDirectory.of(self.config.run).output
            check_still_there(output)
            output.mkdir(parents=True, exist_ok=True)
            lines = (f"{name} = {value}\n".encode() for name, value in metrics.items())
            write_atomically(output / EVALUATION_FILE, lines)
        return metrics


@dataclass(frozen=True, kw_only=True)
class MaskedLMWithNextSentence(MaskedLM):
    """Masked-LM, and whether the second sentence follows the first."""

    objective_terms = (MASKED_LM, NEXT_SENTENCE)


@dataclass(frozen=True, kw_only=True)
class MaskedLMWithSentenceOrder(MaskedLM):
    """Masked-LM, and whether the two sentences are in their original order."""

    objective_terms = (MASKED_LM, SENTENCE_ORDER)
