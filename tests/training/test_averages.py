"""Averages of the weights against numpy, and in whole runs: resumed, evaluated, written as a model."""

import shutil

import numpy as np
import pytest

from modeling.pretrained import read_weights
from tests.training.fakes import FakeStep, SumModel
from tests.training.whole_runs import train
from training.averages import WeightAverage
from training.checkpoint import OPTIMIZER_FILE
from training.journal import read_rows
from utils.average_checkpoints import stored_average, uniform_average, write_like
from utils.checkpoints import checkpoints
from utils.errors import UserError

WORDS = "--max_steps 6 --model_save_every_n_iter 3 --ema_decay 0.3 --val_fraction 0.3 --eval_every_n_iters 3".split()


class AddingStep(FakeStep):
    """A step that adds the batch to the model's weights."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, batch):
        self.model.extra.data.copy_(self.model.extra.data + batch)
        return super().__call__(batch)

    def load_state(self, state, step):
        self.loaded = state, step


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_the_published_formula(decay):
    model, expected, weights = SumModel(), np.zeros(2), np.zeros(2)
    average = WeightAverage.exponential(AddingStep(model), model, decay)
    for update, change in enumerate((1.0, -3.5, 0.25, 8.0), 1):
        average(change)
        weights = weights + change
        used = min(decay, (1 + update) / (10 + update))
        expected = used * expected + (1 - used) * weights
        np.testing.assert_allclose(average.state()["extra.ema"], expected, rtol=1e-6)
    assert average.state()["w.m"][0] == 4
    with average.in_use():
        np.testing.assert_allclose(model.extra.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(model.extra.numpy(), weights.astype(np.float32))


@pytest.mark.parametrize("first", [1, 3, 4])
def test_the_uniform_average_is_the_mean_of_the_last_updates(first):
    model, weights = SumModel(), [np.zeros(2)]
    average = WeightAverage.uniform(AddingStep(model), model, first)
    for update, change in enumerate((1.0, -3.5, 0.25, 8.0), 1):
        average(change)
        weights.append(weights[-1] + change)
        expected = np.mean(weights[min(first, update) :], axis=0)
        np.testing.assert_allclose(average.state()["extra.swa"], expected, rtol=1e-6)


def test_a_restored_average_continues_and_a_missing_one_starts_with_the_weights():
    model = SumModel()
    whole = WeightAverage.exponential(AddingStep(model), model, 0.99)
    whole(1.0)
    state = whole.state()
    restored = WeightAverage.exponential(AddingStep(model), model, 0.99)
    restored.load_state({}, 1)
    restored.load_averages(state, "checkpoint-1")
    whole(2.0)
    model.extra.data.copy_(model.extra.data - 2.0)
    restored(2.0)
    np.testing.assert_array_equal(whole.state()["extra.ema"], restored.state()["extra.ema"])
    fresh = WeightAverage.exponential(AddingStep(model), model, 0.99)
    fresh.load_averages({"other.m": np.zeros(1)}, "checkpoint-1")
    np.testing.assert_array_equal(fresh.state()["extra.ema"], model.extra.numpy())
    with pytest.raises(UserError, match="the average of extra is missing or has a different shape"):
        fresh.load_averages({"extra.ema": np.zeros(3, np.float32)}, "checkpoint-1")


@pytest.fixture(scope="module")
def run(shared_records_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train("graph", shared_records_dir, directory, *WORDS)
    return directory


def state(run):
    return read_weights(run / "checkpoint-6" / OPTIMIZER_FILE)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_repeats_the_average(mode, run, shared_records_dir, tmp_path):
    shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
    train(mode, shared_records_dir, tmp_path, *WORDS, "--resume")
    tolerance = 0 if mode == "graph" else 1e-6
    averages = {name: array for name, array in state(run).items() if name.endswith(".ema")}
    assert len(averages) == len(read_weights(run / "checkpoint-6/model.safetensors"))
    for name, array in averages.items():
        np.testing.assert_allclose(state(tmp_path)[name], array, rtol=0, atol=tolerance, err_msg=name)


def test_a_resumed_run_repeats_the_uniform_average(shared_records_dir, tmp_path):
    words = [*WORDS, "--ema_decay", "0", "--swa_start", "0.4"]  # from update 3 on
    train("graph", shared_records_dir, tmp_path / "run", *words)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "run/checkpoint-3", tmp_path / "resumed/checkpoint-3")
    train("graph", shared_records_dir, tmp_path / "resumed", *words, "--resume")
    averages, repeated = (stored_average(tmp_path / f"{name}/checkpoint-6") for name in ("run", "resumed"))
    last = read_weights(tmp_path / "run/checkpoint-6/model.safetensors")
    for name, array in averages.items():
        np.testing.assert_array_equal(array, repeated[name], err_msg=name)
    assert any((array != last[name]).any() for name, array in averages.items())
    rows = [read_rows(tmp_path / f"{name}/metrics.jsonl")[-1] for name in ("run", "resumed")]
    assert rows[0]["eval_swa_mlm_loss"] == rows[1]["eval_swa_mlm_loss"] != rows[0]["eval_mlm_loss"]


def test_the_averaged_weights_have_the_figures_that_the_run_reported(run, shared_records_dir, tmp_path):
    reported = read_rows(run / "metrics.jsonl")[-1]
    plain = {name for name in reported if name.startswith("eval_") and not name.startswith("eval_ema_")}
    assert {f"eval_ema_{name[5:]}" for name in plain} <= set(reported)
    assert reported["eval_ema_mlm_loss"] != reported["eval_mlm_loss"]
    write_like(run / "checkpoint-6", stored_average(run / "checkpoint-6"), tmp_path / "averaged")
    words = ["--do_train", "False", "--val_fraction", "0.3", "--init_checkpoint", str(tmp_path / "averaged")]
    train("graph", shared_records_dir, tmp_path / "evaluated", *words)
    (measured,) = read_rows(tmp_path / "evaluated/metrics.jsonl")
    assert measured["eval_mlm_loss"] == reported["eval_ema_mlm_loss"]


def test_the_uniform_average_is_the_mean_bit_for_bit(run, tmp_path):
    used = checkpoints(run)
    each = [read_weights(path / "model.safetensors") for path in used]
    assert len(used) == 2
    for name, array in uniform_average(used).items():
        mean = ((each[0][name].astype(np.float64) + each[1][name]) / 2).astype(np.float32)
        np.testing.assert_array_equal(array, mean)
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        uniform_average([used[0], tmp_path])


def test_a_run_without_averages_stores_none(shared_records_dir, tmp_path):
    train("eager", shared_records_dir, tmp_path / "run", "--max_steps", "1")
    with pytest.raises(UserError, match="contains no average"):
        stored_average(tmp_path / "run/checkpoint-1")
