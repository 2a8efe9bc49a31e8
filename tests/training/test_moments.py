"""A run continues only from the optimizer's whole state."""

import numpy as np
import pytest

from modeling import BertForPreTraining
from modeling.pretrained import read_weights, write_weights
from tests.training.whole_runs import train
from training.optimizer import own_moments
from utils.errors import UserError


@pytest.fixture
def model(tiny_config):
    return BertForPreTraining(tiny_config, seed=1)


@pytest.fixture
def state(model):
    moments = {
        f"{name}.{letter}": np.ones(tuple(p.shape), np.float32)
        for name, p in model.named_parameters()
        for letter in "mv"
    }
    return moments | {"updates": np.array([4])}


def without(state, prefix):
    return {name: array for name, array in state.items() if not name.startswith(prefix)}


def test_a_whole_state_is_taken_without_the_moments_of_other_models(model, state):
    taken = own_moments({**state, "classifier.weight.m": np.ones(2, np.float32)}, model, "c")
    assert taken.keys() == state.keys()


@pytest.mark.parametrize("part", ["bert.pooler.", "cls.seq_relationship.", "cls.predictions."])
def test_a_part_that_the_loss_leaves_out_has_no_moments(model, state, part):
    assert own_moments(without(state, part), model, "c").keys() == without(state, part).keys()


@pytest.mark.parametrize(
    "prefix", ["", "bert.encoder.", "bert.embeddings.word", "cls.predictions.bias.m", "bert.pooler.dense.bias.v"]
)
def test_a_state_without_the_runs_moments_is_refused(model, state, prefix):
    with pytest.raises(UserError, match=f"c lacks the optimizer's state {prefix}.*: resume an older checkpoint"):
        own_moments(without(state, prefix), model, "c")


@pytest.mark.parametrize(
    "array", [np.ones(36, np.float32), np.ones(37), np.full(37, np.nan, np.float32), np.zeros(37, np.int32)]
)
def test_moments_of_another_shape_type_or_value_are_refused(model, state, array):
    with pytest.raises(
        UserError, match=r"cls\.predictions\.bias\.m does not contain finite 32-bit numbers of shape \[37\]"
    ):
        own_moments({**state, "cls.predictions.bias.m": array}, model, "c")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_resume_refuses_a_checkpoint_without_moments(mode, records_dir, tmp_path):
    words = ("--max_steps", "3")
    train(mode, records_dir, tmp_path / "run", *words)
    file = tmp_path / "run/checkpoint-3/training_state/optimizer.safetensors"
    write_weights(file, without(read_weights(file), "bert.encoder."))
    with pytest.raises(UserError, match=r"lacks the optimizer's state bert\.encoder"):
        train(mode, records_dir, tmp_path / "run", "--max_steps", "5", "--resume")
