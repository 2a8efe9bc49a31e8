"""Training steps: equal in both modes and for every split of a batch."""

import dataclasses

import numpy as np
import pytest

import kernels
from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from modeling import BertForPreTraining, BertForQuestionAnswering
from training.distributed import World
from training.optimizer import build_optimizer
from training.schedule import learning_rates
from training.step import StepOptions, build_eval_step, build_train_step, normalized, place_model

SEQ_LENGTH = 11  # of the records that conftest.py makes
WORLD = World(JobShape(), "cpu")
FLAGS = OptimizerFlags(lr=2e-2, weight_decay=0.1, warmup_proportion=0.2, max_grad_norm=0.5)


def losses(mode, config, batches, *, accumulation=1, flags=FLAGS, model=None, seed=3, **options):
    """Metrics of an update on each batch, and the model."""
    model = place_model(mode, model or BertForPreTraining(config, seed=1), WORLD)
    rates = learning_rates(flags, len(batches))
    micro_rows = len(batches[0]["input_ids"]) // accumulation
    options = {"world": WORLD, "seed": seed, "micro_rows": micro_rows, "max_grad_norm": flags.max_grad_norm, **options}
    step = build_train_step(mode, model, build_optimizer(model, flags), rates, StepOptions(**options))
    return [step(batch)() for batch in batches], model


def test_modes_agree_with_accumulation_clipping_and_two_groups(tiny_config, pretraining_batch):
    batches = [pretraining_batch(8, seed % 2) for seed in range(12)]
    eager, eager_model = losses("eager", tiny_config, batches, accumulation=2)
    graph, graph_model = losses("graph", tiny_config, batches, accumulation=2)
    for name in ("total_loss", "mlm_loss", "nsp_loss", "nsp_accuracy"):
        np.testing.assert_allclose([m[name] for m in eager], [m[name] for m in graph], rtol=1e-5, atol=1e-6)
    if kernels.is_loaded():
        np.testing.assert_allclose([m["grad_norm"] for m in eager], [m["grad_norm"] for m in graph], rtol=1e-5)
    assert eager[-1]["total_loss"] < eager[0]["total_loss"] - 0.3
    assert min(m["grad_norm"] for m in eager) > FLAGS.max_grad_norm  # so that clipping is at work
    for name, array in eager_model.to_arrays().items():
        np.testing.assert_allclose(array, graph_model.to_arrays()[name], rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("accumulation", [2, 3, 6])
def test_micro_batches_add_up_to_the_whole_batch(mode, accumulation, tiny_config, pretraining_batch):
    batches = [pretraining_batch(6, seed) for seed in range(5)]
    whole, _ = losses(mode, tiny_config, batches)
    split, _ = losses(mode, tiny_config, batches, accumulation=accumulation)
    np.testing.assert_allclose([m["total_loss"] for m in whole], [m["total_loss"] for m in split], rtol=2e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_rows_of_weight_zero_change_nothing(mode, tiny_config, pretraining_batch):
    batch = pretraining_batch(4)
    filled = {name: np.concatenate([array, array[:2]]) for name, array in batch.items()}
    filled["example_weights"][4:] = 0
    filled["masked_lm_weights"][4:] = 0
    alone, _ = losses(mode, tiny_config, [batch] * 3)
    together, _ = losses(mode, tiny_config, [filled] * 3)
    np.testing.assert_allclose([m["total_loss"] for m in alone], [m["total_loss"] for m in together], rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_one_step_moves_every_parameter(mode, tiny_config, pretraining_batch):
    before = BertForPreTraining(tiny_config, seed=1).to_arrays()
    flags = OptimizerFlags(lr=1e-2, warmup_proportion=0.0)
    _, model = losses(mode, tiny_config, [pretraining_batch(6)], flags=flags)
    unmoved = [name for name, array in model.to_arrays().items() if np.array_equal(array, before[name])]
    assert unmoved == []


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_clipping_by_value_skips_parameters_without_gradient(mode, tiny_config, pretraining_batch):
    """Question answering does not use the pooler, whose parameters then have none."""
    batch = {name: pretraining_batch(6)[name] for name in ("input_ids", "input_mask", "segment_ids", "example_weights")}
    batch |= {name: np.arange(6, dtype=np.int32)[:, None] for name in ("start_positions", "end_positions")}
    model = place_model(mode, BertForQuestionAnswering(tiny_config, seed=1), WORLD)
    before = model.to_arrays()
    flags = OptimizerFlags(lr=1e-2, warmup_proportion=0.0, clip="value", weight_decay=0.0)
    step = build_train_step(
        mode, model, build_optimizer(model, flags), np.array([1e-2]), StepOptions(WORLD, 3, clip_value=1e-4)
    )
    assert np.isfinite(step(batch)()["total_loss"])
    unmoved = {name for name, array in model.to_arrays().items() if np.array_equal(array, before[name])}
    assert unmoved == {name for name in before if "pooler" in name}


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_state_continues_in_either_mode(mode, tiny_config, pretraining_batch):
    """Six updates equal three, saved and put into a new step of each mode, and three more."""
    batches = [pretraining_batch(4, seed) for seed in range(6)]
    rates = learning_rates(FLAGS, 6)
    options = StepOptions(world=WORLD, seed=3, max_grad_norm=FLAGS.max_grad_norm)

    def fresh(kind):
        model = place_model(kind, BertForPreTraining(tiny_config, seed=1), WORLD)
        return model, build_train_step(kind, model, build_optimizer(model, FLAGS), rates, options)

    model, step = fresh(mode)
    whole = [step(batch)()["total_loss"] for batch in batches]
    model, step = fresh(mode)
    for batch in batches[:3]:
        step(batch)()
    arrays, state = model.to_arrays(), step.state()
    for other in ("eager", "graph"):
        model, step = fresh(other)
        model.load_arrays(arrays, source="memory")
        step.load_state(state, 3)
        rest = [step(batch)()["total_loss"] for batch in batches[3:]]
        if other == mode:
            assert rest == whole[3:]
        else:
            np.testing.assert_allclose(rest, whole[3:], rtol=2e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_dropout_follows_the_seed(mode, tiny_config, pretraining_batch):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    batches = [pretraining_batch(4)] * 3
    flags = OptimizerFlags(lr=1e-9, warmup_proportion=0.0)  # the model stays, so that only dropout differs

    def run(seed):
        return [m["mlm_loss"] for m in losses(mode, config, batches, accumulation=2, flags=flags, seed=seed)[0]]

    first, again, other = run(1), run(1), run(2)
    assert first == again
    assert len({*first, *other}) == 6  # every step and every seed draws its own masks


@pytest.mark.skipif(not kernels.is_loaded(), reason="stock dropout then draws other masks from the start")
def test_activation_checkpointing_changes_no_digit(tiny_config, pretraining_batch):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1)
    batches = [pretraining_batch(6, seed) for seed in range(3)]
    kept, kept_model = losses("eager", config, batches, accumulation=2)
    again, model = losses("eager", config, batches, accumulation=2, activation_checkpointing=True)
    assert again == kept
    for name, array in kept_model.to_arrays().items():
        np.testing.assert_array_equal(model.to_arrays()[name], array, err_msg=name)


def trimmed(batch, length):
    """The batch with its sequences cut to a length that includes all masked positions."""
    return {name: array[:, :length] if array.shape[1:] == (SEQ_LENGTH,) else array for name, array in batch.items()}


# Two shapes return after others; the update between them is the second of its shape.
LENGTHS = (SEQ_LENGTH, 8, SEQ_LENGTH, 6, 8, 6, SEQ_LENGTH)


def test_jobs_of_several_shapes_share_their_state(tiny_config, pretraining_batch):
    """Graph mode compiles a job for each shape; all share moments, counters and parameters, as eager mode does."""
    batches = [trimmed(pretraining_batch(4, seed), length) for seed, length in enumerate(LENGTHS)]
    eager, eager_model = losses("eager", tiny_config, batches, accumulation=2)
    graph, graph_model = losses("graph", tiny_config, batches, accumulation=2)
    np.testing.assert_allclose([m["total_loss"] for m in eager], [m["total_loss"] for m in graph], rtol=1e-5)
    for name, array in eager_model.to_arrays().items():
        np.testing.assert_allclose(array, graph_model.to_arrays()[name], rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("mode", "own_kernels"), [("eager", True), ("graph", True), ("graph", False)])
def test_several_shapes_with_dropout_resume_exactly(mode, own_kernels, tiny_config, pretraining_batch, monkeypatch):
    if not own_kernels:
        monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    lengths = (SEQ_LENGTH, 8, SEQ_LENGTH, 8, 8, SEQ_LENGTH)
    batches = [trimmed(pretraining_batch(4, seed), length) for seed, length in enumerate(lengths)]
    options = StepOptions(world=WORLD, seed=3, micro_rows=2, max_grad_norm=FLAGS.max_grad_norm)

    def fresh():
        model = place_model(mode, BertForPreTraining(config, seed=1), WORLD)
        return model, build_train_step(mode, model, build_optimizer(model, FLAGS), learning_rates(FLAGS, 6), options)

    model, step = fresh()
    for batch in batches[:3]:
        step(batch)()
    arrays, state = model.to_arrays(), step.state()
    rest = [step(batch)()["total_loss"] for batch in batches[3:]]
    model, step = fresh()
    model.load_arrays(arrays, source="memory")
    step.load_state(state, 3)
    assert [step(batch)()["total_loss"] for batch in batches[3:]] == rest


def test_evaluation_sums_over_rows_and_keeps_the_training_mode(tiny_config, pretraining_batch):
    model = BertForPreTraining(tiny_config, seed=1)
    model.train()
    batch = pretraining_batch(5)
    results = {
        mode: build_eval_step(mode, model, WORLD, ["seq_relationship_score"])(batch) for mode in ("eager", "graph")
    }
    assert model.training
    for name in ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "seq_relationship_score"):
        np.testing.assert_allclose(results["eager"][name], results["graph"][name], rtol=1e-5, err_msg=name)
    halves = [
        build_eval_step("eager", model, WORLD)({k: v[s] for k, v in batch.items()}) for s in (slice(2), slice(2, 5))
    ]
    np.testing.assert_allclose(halves[0]["mlm_loss"] + halves[1]["mlm_loss"], results["eager"]["mlm_loss"], rtol=1e-5)


def test_normalized_weights_sum_to_one(pretraining_batch):
    batch = normalized(pretraining_batch(5), WORLD)
    assert batch["masked_lm_weights"].sum() == pytest.approx(1)
    assert batch["example_weights"].sum() == pytest.approx(1)
    nothing = {"masked_lm_weights": np.zeros((2, 3), np.float32)}
    assert not normalized(nothing, WORLD)["masked_lm_weights"].any()
