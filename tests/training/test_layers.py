"""Frozen layers stay as they are, and each layer has its own learning rate, in both modes."""

import numpy as np
import pytest

from configs.training import OptimizerFlags
from launch.job_shape import JobShape
from modeling import BertForPreTraining
from training.distributed import World
from training.layers import ScaledUpdates, depth, freeze
from training.optimizer import build_optimizer
from training.schedule import learning_rates
from training.start import Start, build_model
from training.step import StepOptions, build_train_step, place_model
from utils.errors import UserError

WORLD = World(JobShape(), "cpu")


def trained(mode, config, batches, *, decay=1.0, accumulation=1, **flags):
    """The weights before and after an update on each batch."""
    flags = OptimizerFlags(lr=1e-2, warmup_proportion=0, lr_schedule="constant", max_grad_norm=0.5, **flags)
    model = place_model(mode, BertForPreTraining(config, seed=1), WORLD)
    before = model.to_arrays()
    freeze(model, flags)
    options = StepOptions(WORLD, seed=3, micro_rows=len(batches[0]["input_ids"]) // accumulation, max_grad_norm=0.5)
    rates = learning_rates(flags, len(batches))
    step = build_train_step(mode, model, build_optimizer(model, flags), rates, options)
    if decay < 1:
        step = ScaledUpdates(step, model, decay)
    for batch in batches:
        step(batch)()
    return before, model.to_arrays()


def test_depths():
    names = ("bert.embeddings.LayerNorm.bias", "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.11.x")
    assert [depth(name, 12) for name in (*names, "bert.pooler.dense.weight", "cls.predictions.bias")] == [
        *(0, 1, 12),
        *(13, 13),
    ]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_updates_are_scaled_by_depth(mode, tiny_config, pretraining_batch):
    batches = [pretraining_batch(6)]
    before, plain = trained(mode, tiny_config, batches)
    _, scaled = trained(mode, tiny_config, batches, decay=0.5)
    layers = tiny_config.num_hidden_layers
    for name, array in before.items():
        rate = 0.5 ** (layers + 1 - depth(name, layers))
        np.testing.assert_allclose(scaled[name] - array, rate * (plain[name] - array), atol=2e-7, err_msg=name)
    assert any(np.abs(plain[name] - array).max() > 1e-3 for name, array in before.items() if "embeddings" in name)


def test_modes_agree_over_several_updates_with_accumulation(tiny_config, pretraining_batch):
    batches = [pretraining_batch(6, seed) for seed in range(5)]
    _, eager = trained("eager", tiny_config, batches, decay=0.7, accumulation=2)
    _, graph = trained("graph", tiny_config, batches, decay=0.7, accumulation=2)
    for name, array in eager.items():
        np.testing.assert_allclose(array, graph[name], rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(("flags", "frozen"), [({"freeze_embeddings": True}, 0), ({"freeze_layers": 1}, 1)])
def test_frozen_layers_stay_as_they_are(mode, flags, frozen, tiny_config, pretraining_batch):
    before, after = trained(mode, tiny_config, [pretraining_batch(6)] * 2, **flags)
    for name, array in before.items():
        changed = not np.array_equal(array, after[name])
        assert changed == (depth(name, tiny_config.num_hidden_layers) > frozen), name


def test_more_layers_than_the_model_has_are_refused(tiny_config):
    with pytest.raises(UserError, match="--freeze_layers 99 is more than the model's"):
        freeze(BertForPreTraining(tiny_config), OptimizerFlags(freeze_layers=99))


def test_the_last_layers_are_reinitialized(tiny_config, tmp_path):
    from configs.training import RunFlags
    from conversion import read_checkpoint

    source = BertForPreTraining(tiny_config, seed=5)
    source.save_pretrained(tmp_path)
    start = Start(tmp_path, weights=read_checkpoint(tmp_path))
    model = build_model(start, BertForPreTraining, tiny_config, RunFlags(seed=7), WORLD, reinit=1)
    fresh, layers = BertForPreTraining(tiny_config, seed=7).to_arrays(), tiny_config.num_hidden_layers
    for name, array in model.to_arrays().items():
        reinitialized = depth(name, layers) == layers or "pooler" in name
        np.testing.assert_array_equal(array, (fresh if reinitialized else source.to_arrays())[name], err_msg=name)
    start = Start(tmp_path, weights=read_checkpoint(tmp_path))
    with pytest.raises(UserError, match="--reinit_layers 9 is more than the model's"):
        build_model(start, BertForPreTraining, tiny_config, RunFlags(), WORLD, reinit=9)
