"""Mixed precision, as far as it shows without CUDA: the configuration and the state of the compiled job."""

import numpy as np
import pytest
from oneflow.framework.session_context import GetDefaultSession

from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from modeling import BertForPreTraining
from training.distributed import World
from training.optimizer import build_optimizer
from training.step import EagerTrainStep, GraphTrainStep, StepOptions, _can_measure_norm, _EvalGraph, build_eval_step

RATES = np.full(9, 0.01)


@pytest.fixture
def graph_step(tiny_config):
    """A function that makes a compiled step in mixed precision; on a CPU its products stay in fp32."""

    def make(arrays=None, **options):
        model = BertForPreTraining(tiny_config, seed=3)
        if arrays:
            model.load_arrays(arrays, source="the other model")
        options = StepOptions(world=World(JobShape(), "cpu"), seed=3, use_fp16=True, **options)
        return GraphTrainStep(model.train(), build_optimizer(model, OptimizerFlags()), RATES, options)

    return make


def test_the_job_is_compiled_with_mixed_precision_and_a_loss_scale(graph_step, pretraining_batch):
    step = graph_step()
    step(pretraining_batch(4))()
    (graph,) = step.jobs.values()
    job = graph._full_job_proto
    assert job.job_conf.enable_auto_mixed_precision
    assert job.job_conf.train_conf.dynamic_loss_scale_policy.initial_loss_scale == 2.0**15
    kinds = {op.user_conf.op_type_name for op in job.net.op if op.HasField("user_conf")}
    assert {"dynamic_loss_scale_schedule", "multi_count_not_finite"} <= kinds


def test_the_loss_scale_is_resumed(graph_step, pretraining_batch):
    whole = graph_step()
    losses = [whole(pretraining_batch(4, seed))()["total_loss"] for seed in range(2)]
    arrays, state = whole.model.to_arrays(), whole.state()
    assert state["loss_scale"] == 2.0**15 and state["good_steps"] == 2 and state["updates"] == 2
    resumed = graph_step(arrays)
    resumed.load_state(state | {"loss_scale": np.array([256.0], np.float32)}, 2)
    for seed in range(2, 5):
        losses = [step(pretraining_batch(4, seed))()["total_loss"] for step in (whole, resumed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert resumed.state()["loss_scale"] == 256 and resumed.state()["good_steps"] == 5


def test_an_update_whose_gradients_overflow_is_skipped_and_halves_the_scale(graph_step, pretraining_batch):
    step = graph_step()
    step(pretraining_batch(4))()
    before = step.model.to_arrays()
    bad = pretraining_batch(4)
    bad["example_weights"][0] = np.inf
    with np.errstate(invalid="ignore"):
        step(bad)()
    state = step.state()
    assert state["loss_scale"] == 2.0**14 and state["updates"] == 1
    for name, array in step.model.to_arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_nccl_fusion_flags_reach_the_framework(tiny_config):
    model = BertForPreTraining(tiny_config)
    options = StepOptions(World(JobShape(), "cuda:0"), seed=0, nccl_fusion_threshold_mb=5, nccl_fusion_max_ops=7)
    GraphTrainStep(model, build_optimizer(model, OptimizerFlags()), RATES, options)
    sent = GetDefaultSession().resource.collective_boxing_conf
    assert (sent.nccl_fusion_threshold_mb, sent.nccl_fusion_max_ops) == (5, 7)


def test_evaluation_on_cuda_has_the_precision_of_training(tiny_config):
    model = BertForPreTraining(tiny_config)
    for mode in ("eager", "graph"):
        steps = [
            build_eval_step(mode, model, World(JobShape(), device), use_fp16=True).use_fp16
            for device in ("cpu", "cuda:0")
        ]
        assert steps == [False, True]
    for use_fp16 in (False, True):
        config = _EvalGraph(model, frozenset(), use_fp16).config.proto
        assert config.enable_auto_mixed_precision == use_fp16


def test_a_compiled_job_on_cuda_returns_the_gradient_norm_itself(tiny_config, pretraining_batch, monkeypatch):
    steps = []
    monkeypatch.setattr("training.step._can_measure_norm", lambda options, micro_batches: True)
    monkeypatch.setattr("kernels.last_gradient_norm", lambda divided: None)
    for kind in (EagerTrainStep, GraphTrainStep):
        model = BertForPreTraining(tiny_config, seed=3)
        options = StepOptions(World(JobShape(), "cpu"), seed=3)
        steps.append(kind(model.train(), build_optimizer(model, OptimizerFlags()), RATES, options))
    for seed in range(2):
        norms = [step(pretraining_batch(4, seed))()["grad_norm"] for step in steps]
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_the_gradient_norm_needs_one_gpu_one_micro_batch_and_fp32():
    one, two = World(JobShape(), "cuda:0"), World(JobShape(0, 2), "cuda:0")
    assert _can_measure_norm(StepOptions(one, seed=0), 1)
    assert not _can_measure_norm(StepOptions(World(JobShape(), "cpu"), seed=0), 1)
    assert not _can_measure_norm(StepOptions(one, seed=0), 2) and not _can_measure_norm(StepOptions(two, seed=0), 1)
    assert not _can_measure_norm(StepOptions(one, seed=0, use_fp16=True), 1)
