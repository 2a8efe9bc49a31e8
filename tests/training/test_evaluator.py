"""A model over whole record sets: means by named weights, outputs in the records' order, progress, interruption."""

import signal

import numpy as np
import pytest

from configs.training import BatchFlags
from data.reading.loader import Records
from modeling.ops import MASKED_SCORE
from tests.training.fakes import ALONE, ITEM_TERM, ROW_TERM, Numbers, SumModel
from training.evaluator import Evaluator
from training.stopping import Interrupted, StopSignals
from training.task import padded
from training.terms import INPUTS

COUNT, ROWS = 7, 3


def evaluator(mode="eager", say_every=20, stop=None):
    return Evaluator(mode, SumModel(), ALONE, ROWS, say_every, stop or StopSignals(ALONE.any))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_means_are_divided_by_the_weights_that_figures_name(mode):
    features = (*INPUTS, "item_weights")
    means = evaluator(mode).means(Records(Numbers(COUNT)), (ITEM_TERM, ROW_TERM), features, print)
    numbers = np.arange(COUNT)
    expected = {"item_loss": np.average(numbers, weights=numbers % 3), "row_loss": numbers.mean()}
    assert means == pytest.approx(expected)
    assert list(means) == list(expected)  # figures that the model does not compute are left out


def test_only_the_figures_of_the_terms_are_given():
    features = (*INPUTS, "item_weights")
    assert list(evaluator().means(Records(Numbers(COUNT)), (ROW_TERM,), features, print)) == ["row_loss"]


@pytest.mark.parametrize("padding", ["max_length", "longest"])
def test_outputs_are_in_the_order_of_the_records(padding):
    records = padded(Records(Numbers(COUNT, 19)), BatchFlags(padding=padding))
    numbers = evaluator().outputs(records, ("numbers",), print)["numbers"]
    assert numbers.shape[0] == COUNT and numbers[:, 0].tolist() == list(range(COUNT))
    beyond = numbers[numbers != np.arange(COUNT)[:, None]]
    assert (beyond == np.float32(MASKED_SCORE)).all()


def test_progress_is_told_now_and_then():
    lines = []
    list(evaluator(say_every=2).batches(Records(Numbers(COUNT)), lines.append))
    assert lines == ["evaluation: batch 2 of 3"]


def test_a_signal_interrupts_only_while_signals_are_collected():
    stop = StopSignals(ALONE.any)
    stop.received.append(signal.SIGTERM)
    assert len(list(evaluator(stop=stop).batches(Records(Numbers(COUNT)), print))) == 3
    with stop, pytest.raises(Interrupted):
        list(evaluator(stop=stop).batches(Records(Numbers(COUNT)), print))


def test_another_model_has_its_own_steps():
    first = evaluator()
    first.outputs(Records(Numbers(2)), ("numbers",), print)
    second = first.with_model(SumModel())
    assert second.model is not first.model and not second._steps and second.rows == first.rows
