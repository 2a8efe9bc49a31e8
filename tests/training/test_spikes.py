"""Updates whose gradient norm is far beyond the recent ones are left out, in both modes and over a resume."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import kernels
from configs.cli import parse
from configs.pretraining import PretrainingConfig
from modeling.pretrained import read_weights
from tests.training.fakes import ALONE
from tests.training.whole_runs import train
from training.journal import read_rows
from training.spikes import SpikeFilter
from training.step import check_mode
from utils.errors import UserError

# A factor so close to 1 leaves out many ordinary updates.
FLAGS = "--skip_loss_spikes --spike_factor 1.05 --max_steps 40 --model_save_every_n_iter 25 --keep_last 0".split()


def test_a_norm_is_compared_with_the_median_of_those_before(capsys):
    spikes = SpikeFilter(3.0)
    assert not any(spikes.leaves_out(norm, 0) for norm in (1e6, *range(1, 16)))  # too few to judge
    assert spikes.limit == pytest.approx(3 * np.median([1e6, *range(1, 16)]))
    assert not spikes.leaves_out(spikes.limit, 16)
    assert spikes.leaves_out(spikes.limit * 1.01, 17)
    assert "update 17 is skipped: its gradient norm" in capsys.readouterr().err


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_norms_that_are_not_finite_are_no_spikes(norm):
    spikes = SpikeFilter(3.0)
    assert not any([spikes.leaves_out(1.0, 0) for _ in range(20)] + [spikes.leaves_out(norm, 20)])


def test_the_median_follows_a_lasting_change():
    spikes = SpikeFilter(2.0)
    left_out = [spikes.leaves_out(1.0 if step < 64 else 5.0, step) for step in range(140)]
    assert left_out[64:97] == [True] * 32 + [False] and not any(left_out[97:])


def test_the_state_is_restored():
    spikes, other = SpikeFilter(2.0), SpikeFilter(2.0)
    for norm in range(70):
        spikes.leaves_out(float(norm), norm)
    other.load_state(spikes.state())
    assert other.limit == spikes.limit and np.array_equal(other.state()["gradient_norms"], np.arange(6.0, 70))
    other.load_state({})
    assert other.limit == math.inf


@pytest.fixture(scope="module")
def runs(shared_records_dir, tmp_path_factory):
    """The directory of a run in each mode."""
    root = tmp_path_factory.mktemp("spikes")
    for mode in ("eager", "graph"):
        train(mode, shared_records_dir, root / mode, *FLAGS)
    return root


def figures(directory):
    names = ("total_loss", "grad_norm", "weight_norm")
    return np.array([[row[name] for name in names] for row in read_rows(directory / "metrics.jsonl")[:40]])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_update_that_is_left_out_changes_no_weight(mode, runs):
    _, norms, weights = figures(runs / mode).T
    expected = [
        n >= 16 and norm > 1.05 * np.median(norms[:n]) for n, norm in enumerate(norms)
    ]  # the window contains all norms
    kept = np.concatenate([[False], weights[1:] == weights[:-1]])
    assert kept.tolist() == expected and 3 < sum(expected) < 20


def test_both_modes_leave_out_the_same_updates(runs):
    np.testing.assert_allclose(figures(runs / "eager"), figures(runs / "graph"), rtol=2e-3)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_leaves_out_the_same_updates(mode, runs, shared_records_dir, tmp_path):
    shutil.copytree(runs / mode / "checkpoint-25", tmp_path / "run/checkpoint-25")
    train(mode, shared_records_dir, tmp_path / "run", *FLAGS, "--resume")
    whole, resumed = (read_weights(d / "checkpoint-40/model.safetensors") for d in (runs / mode, tmp_path / "run"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("words", ["", "--clip none", "--clip value", "--max_grad_norm 0"])
def test_graph_mode_needs_the_kernels_and_clipping_by_norm(words, monkeypatch):
    config = parse(PretrainingConfig, ["--skip_loss_spikes", *words.split()])
    check_mode("eager", config, ALONE)
    monkeypatch.setattr(kernels, "is_loaded", lambda: bool(words))
    with pytest.raises(UserError, match="--skip_loss_spikes in graph mode needs"):
        check_mode("graph", config, ALONE)
    on_cuda = SimpleNamespace(device="cuda:0", shape=ALONE.shape)
    with pytest.raises(UserError, match="--skip_loss_spikes in graph mode needs"):
        check_mode("graph", parse(PretrainingConfig, ["--skip_loss_spikes"]), on_cuda)
