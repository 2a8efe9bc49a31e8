"""What a task says of itself: the features it reads, its log line and its rows."""

import numpy as np
import pytest

from configs.training import BatchFlags
from data.reading.loader import Records
from modeling import BertForPreTraining
from tasks.masked_lm import MASKED_LM, NEXT_SENTENCE, SENTENCE_ORDER, MaskedLM, MaskedLMWithNextSentence
from tasks.squad import QuestionAnswering
from tasks.tagging import Tagging
from tests.training.fakes import ALONE, ITEM_TERM, ROW_TERM, Numbers, SumTask
from training.step import build_eval_step
from training.task import padded
from training.terms import EXAMPLE_WEIGHTS, INPUTS, features_of, figures_of, select


def test_features_are_the_inputs_and_the_labels():
    assert SumTask().features == (*INPUTS, "item_weights")
    batch = Numbers(3).read(np.arange(3)) | {EXAMPLE_WEIGHTS: np.ones(3)}
    assert list(select(batch, SumTask().features)) == [*INPUTS, "item_weights", EXAMPLE_WEIGHTS]
    assert features_of(("a",), (ROW_TERM, ITEM_TERM)) == ("a", "item_weights")


def test_the_log_line_names_the_figures_that_are_shown():
    assert SumTask().log_line == ("total_loss", "item_loss", "share", "throughput")


def test_rows_have_the_labels_of_figures_last():
    row = SumTask().row({"item_share": 1.0, "item_loss": 2.0, "grad_norm": 3.0})
    assert list(row.items()) == [("item_loss", 2.0), ("grad_norm", 3.0), ("share", 1.0)]


def test_the_log_line_of_pretraining_is_the_one_that_people_parse():
    shown = [figure.name for figure in figures_of((MASKED_LM, NEXT_SENTENCE)) if figure.in_log_line]
    assert shown == ["mlm_loss", "nsp_loss", "pred_acc"]


def test_figures_of_sentence_order_have_its_name():
    figures = figures_of((SENTENCE_ORDER,))
    assert [figure.name for figure in figures] == ["sop_loss", "pred_acc"]
    assert [figure.evaluation_name for figure in figures] == ["sop_loss", "sop_accuracy"]
    assert [figure.output for figure in figures] == ["nsp_loss", "nsp_accuracy"]


@pytest.mark.parametrize("task", [MaskedLM, MaskedLMWithNextSentence, QuestionAnswering, Tagging])
def test_figures_are_divided_by_weights_that_a_batch_has(task):
    terms = task.model_terms if issubclass(task, MaskedLM) else task.terms
    features = {EXAMPLE_WEIGHTS, *(label for term in terms for label in term.labels)}
    for term in terms:
        assert {figure.weights for figure in term.figures} <= features


def test_each_term_of_masked_lm_is_divided_by_its_named_weights(tiny_config, pretraining_batch):
    """Doubling the weights that a figure names doubles its sum; other weights leave it alone."""
    model = BertForPreTraining(tiny_config, seed=1)
    step, batch = build_eval_step("eager", model, ALONE), pretraining_batch(5)
    plain = step(batch)
    for name in ("masked_lm_weights", EXAMPLE_WEIGHTS):
        doubled = step(batch | {name: batch[name] * 2})
        for figure in figures_of((MASKED_LM, NEXT_SENTENCE)):
            factor = 2 if figure.weights == name else 1
            np.testing.assert_allclose(doubled[figure.output], factor * plain[figure.output], rtol=1e-5)


def test_padding_follows_the_flag_and_what_the_source_knows():
    records = Records(Numbers(7))
    assert padded(records, BatchFlags()).lengths is None
    assert padded(records, BatchFlags(padding="longest")).lengths.tolist() == [1, 2, 3, 4, 5, 1, 2]
    source = Numbers(7)
    source.lengths = np.full(7, 4)
    assert padded(Records(source), BatchFlags()).lengths.tolist() == [4] * 7
    assert padded(Records(source), BatchFlags(padding="max_length")).lengths is None
