"""NaN and infinite numbers are found at the update that makes them, and never saved."""

import json
import math
from types import SimpleNamespace

import numpy as np
import oneflow as flow
import pytest

from modeling import BertForPreTraining
from modeling.pretrained import read_weights
from tasks.best_checkpoint import BestCheckpoint
from tests.training.fakes import ALONE, FakeStep
from tests.training.whole_runs import train
from training.checkpoint import TrainingState
from training.checkpointer import Checkpointer
from training.finiteness import FiniteUpdates, NotFiniteError, check_finite
from utils.checkpoints import checkpoints, newest_checkpoint
from utils.errors import UserError

EXPLODES = "--lr 1e30 --warmup_steps 0 --max_steps 9 --model_save_every_n_iter 3 --loss_print_every_n_iters 10".split()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["loss", "norm"])
def test_the_first_bad_update_is_counted_from_the_start_of_the_run(bad, which):
    updates = FiniteUpdates(first_update=7)
    assert updates.first_bad(7) is None
    for number in range(5):
        values = {"loss": -1e30, "norm": 0.0} | ({which: bad} if number == 3 else {})
        updates.add(flow.tensor([1.0, values["loss"]]), flow.tensor(values["norm"]))
    assert updates.first_bad(12) == 10


def test_arrays_are_named():
    check_finite({"a": np.ones(3), "counter": np.array([5])}, "the weights")
    with pytest.raises(NotFiniteError, match=r"the weights: 1 tensors contain NaN or infinite numbers \(first: b\)"):
        check_finite({"a": np.ones(3), "b": np.array([1, np.inf])}, "the weights")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_learning_rate_that_explodes_between_log_lines_saves_nothing(mode, records_dir, tmp_path):
    with pytest.raises(UserError, match=r"at step [12]\. No good checkpoint was saved: start over with a lower"):
        train(mode, records_dir, tmp_path / "run", *EXPLODES)
    assert not checkpoints(tmp_path / "run")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_last_good_checkpoint_is_kept_and_named(mode, records_dir, tmp_path):
    out = tmp_path / "run"
    train(mode, records_dir, out, "--max_steps", "4", "--model_save_every_n_iter", "2")
    with pytest.raises(UserError, match=rf"The last good checkpoint is {out / 'checkpoint-4'}: continue .* --resume"):
        train(mode, records_dir, out, *EXPLODES, "--resume", "--keep_last", "1")
    assert newest_checkpoint(out) == out / "checkpoint-4"
    assert all(np.isfinite(array).all() for array in read_weights(out / "checkpoint-4/model.safetensors").values())


@pytest.fixture
def checkpointer(tmp_path, tiny_config):
    plan = SimpleNamespace(state_after=lambda done: TrainingState(done, done * 3, 5), budget=None)
    flags = SimpleNamespace(keep_last=1, model_save_every_n_iter=2, save_at_steps=())
    model, journal = BertForPreTraining(tiny_config, seed=1), SimpleNamespace(say=print)
    return Checkpointer(tmp_path, model, FakeStep(), plan, None, None, flags, journal, ALONE)


def test_weights_that_are_not_finite_are_not_saved(checkpointer, tmp_path):
    checkpointer.save(2)
    bias = dict(checkpointer.model.named_parameters())["cls.predictions.bias"]
    bias.data.copy_(flow.full(bias.shape, math.inf))
    with pytest.raises(UserError, match=r"after 4 updates: 1 tensors .* cls\.predictions\.bias\)\. The last good .*-2"):
        checkpointer.save(4)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]


def test_a_state_that_is_not_finite_is_not_saved(checkpointer, tmp_path):
    checkpointer.step.state = lambda: {"w.m": np.array([math.nan], np.float32)}
    with pytest.raises(UserError, match=r"the optimizer's state after 2 updates: .* w\.m\)\. No good checkpoint"):
        checkpointer.save(2)
    assert not checkpoints(tmp_path)


def test_weights_whose_own_loss_is_not_finite_are_not_resumed(checkpointer, tmp_path):
    checkpointer.flags.keep_last = 0
    for done in (2, 4):
        checkpointer.save(done)
    checkpointer.step.first_bad = 4  # the update that checkpoint-4 computes
    with pytest.raises(UserError, match=r"at step 4\. The last good checkpoint is .*checkpoint-2"):
        checkpointer.check_finite(5)
    assert newest_checkpoint(tmp_path).name == "checkpoint-2"
    checkpointer.check_finite(4)


def test_no_best_checkpoint_of_a_diverged_model(tmp_path, tiny_config):
    model = BertForPreTraining(tiny_config, seed=1)
    evaluator = SimpleNamespace(model=model, world=ALONE)
    best = BestCheckpoint(tmp_path / "best")
    best.offer(0.5, evaluator, None, lambda line: None)
    bias = dict(model.named_parameters())["cls.predictions.bias"]
    bias.data.copy_(flow.full(bias.shape, math.nan))
    with pytest.raises(UserError, match=r"The last good checkpoint is .*best"):
        best.offer(0.6, evaluator, None, lambda line: None)
    assert json.loads((tmp_path / "best/score.json").read_text()) == {"score": 0.5}
