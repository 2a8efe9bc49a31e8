"""Checkpoints are complete or absent."""

import numpy as np
import pytest

from modeling import BertForPreTraining
from training.checkpoint import (
    TrainingState,
    load_training_state,
    save_checkpoint,
)
from utils.checkpoints import checkpoints, model_directory, newest_checkpoint
from utils.errors import UserError


def save(directory, model, step, keep_last=0):
    moments = {"cls.predictions.bias.m": np.full(3, step, np.float32)}
    return save_checkpoint(
        directory,
        model,
        model.to_arrays(),
        moments,
        TrainingState(step, step * 7, 5),
        tokenizer={},
        keep_last=keep_last,
    )


@pytest.fixture
def model(tiny_config):
    return BertForPreTraining(tiny_config, seed=1)


def test_a_saved_state_is_loaded(tmp_path, model):
    path = save(tmp_path, model, 4)
    state, moments = load_training_state(path)
    assert state == TrainingState(4, 28, 5)
    assert moments["cls.predictions.bias.m"].tolist() == [4, 4, 4]


def test_newest_and_pruning(tmp_path, model):
    for step in (9, 10, 100):
        save(tmp_path, model, step, keep_last=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-100"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-100"
    assert model_directory(tmp_path).name == "checkpoint-100"
    assert model_directory(tmp_path / "checkpoint-10").name == "checkpoint-10"


def test_a_failed_save_leaves_no_checkpoint(tmp_path, model, monkeypatch):
    save(tmp_path, model, 3)

    def fail(self, *words, **flags):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", fail)
    with pytest.raises(OSError):
        save(tmp_path, model, 6)
    assert newest_checkpoint(tmp_path).name == "checkpoint-3"
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]


@pytest.mark.parametrize("latest", [None, "checkpoint-99\n", "../elsewhere\n", ""])
def test_the_newest_checkpoint_is_found_without_latest(tmp_path, model, latest):
    save(tmp_path, model, 3)
    (tmp_path / "latest").unlink()
    if latest is not None:
        (tmp_path / "latest").write_text(latest)
    assert newest_checkpoint(tmp_path).name == "checkpoint-3"


def test_a_damaged_state_is_named(tmp_path, model):
    path = save(tmp_path, model, 3)
    (path / "training_state/state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json is not a training state"):
        load_training_state(path)
