"""Dynamic loss scaling in eager mode. On a CPU, the products of mixed precision stay in fp32."""

import numpy as np
import pytest

from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from modeling import BertForPreTraining
from training.distributed import World
from training.loss_scale import LossScale
from training.optimizer import build_optimizer
from training.step import EagerTrainStep, GraphTrainStep, StepOptions

RATES = np.array([0.01, 0.02, 0.005, 0.03, 0.01])


@pytest.fixture
def make_step(tiny_config):
    """A function that makes an eager step, or a compiled one."""

    def make(arrays=None, use_fp16=True, kind=EagerTrainStep, rows=2):
        model = BertForPreTraining(tiny_config, seed=3)
        if arrays:
            model.load_arrays(arrays, source="the other model")
        options = StepOptions(world=World(JobShape(), "cpu"), seed=3, use_fp16=use_fp16, micro_rows=rows)
        return kind(model.train(), build_optimizer(model, OptimizerFlags()), RATES, options)

    return make


def overflowing(batch):
    """The batch with a weight that makes all gradients infinite or NaN."""
    return {**batch, "example_weights": np.array([np.inf, *batch["example_weights"][1:]], np.float32)}


def test_the_scale_halves_after_an_overflow_and_doubles_after_2000_good_updates():
    scale = LossScale()
    for overflows in (True, *[False] * 1999):
        scale.record(overflows)
    assert (scale.value, scale.good_steps) == (2.0**14, 1999)
    scale.record(False)
    assert (scale.value, scale.good_steps) == (2.0**15, 0)
    for _ in range(40):
        scale.record(True)
    assert scale.value == 1 and scale.is_smallest


def test_the_scale_does_not_change_the_update(make_step, pretraining_batch):
    plain, scaled = make_step(use_fp16=False), make_step()
    for seed in range(3):
        metrics = [step(pretraining_batch(4, seed))() for step in (plain, scaled)]
        assert metrics[1].pop("loss_scale") == 2.0**15
        assert metrics[1] == pytest.approx(metrics[0], rel=1e-6)
    arrays = scaled.model.to_arrays()
    for name, array in plain.model.to_arrays().items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def test_an_update_that_overflows_advances_nothing(make_step, pretraining_batch):
    step, good = make_step(), make_step()
    for each in (step, good):
        each(pretraining_batch(4, 0))()
    before, state = step.model.to_arrays(), step.state()
    with np.errstate(invalid="ignore"):
        assert "grad_norm" not in step(overflowing(pretraining_batch(4, 1)))()
    assert step.state()["loss_scale"] == 2.0**14 and step.state()["good_steps"] == 0
    for name in state.keys() - {"loss_scale", "good_steps"}:
        np.testing.assert_array_equal(step.state()[name], state[name], err_msg=name)
    for name, array in step.model.to_arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    for each in (step, good):  # with the same learning rate and bias correction
        each(pretraining_batch(4, 2))()
    for name, array in step.model.to_arrays().items():
        np.testing.assert_array_equal(array, good.model.to_arrays()[name], err_msg=name)


@pytest.mark.parametrize("kind", [EagerTrainStep, GraphTrainStep])
def test_a_run_resumes_with_its_scale_in_either_mode(make_step, pretraining_batch, kind):
    whole = make_step()
    with np.errstate(invalid="ignore"):
        for batch in (pretraining_batch(4, 0), overflowing(pretraining_batch(4, 1)), pretraining_batch(4, 2)):
            whole(batch)()
    resumed = make_step(whole.model.to_arrays(), kind=kind)
    resumed.load_state(whole.state(), 3)
    for seed in (3, 4):
        metrics = [step(pretraining_batch(4, seed))() for step in (whole, resumed)]
        assert metrics[0]["total_loss"] == pytest.approx(metrics[1]["total_loss"], rel=1e-5)
    for name in ("loss_scale", "good_steps", "updates"):
        assert whole.state()[name] == resumed.state()[name], name
    assert whole.state()["updates"] == 4
