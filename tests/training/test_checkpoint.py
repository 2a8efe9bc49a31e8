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


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[1]", "7", '{"step": 3}', "[" * 100000, "\x00"),
        '{"step": -1, "records_taken": 0, "seed": 0}',
        '{"step": NaN, "records_taken": 0, "seed": 0}',
        '{"step": 1e999, "records_taken": 0, "seed": 0}',
        '{"step": "3", "records_taken": 0, "seed": 0}',
        '{"step": true, "records_taken": 0, "seed": 0}',
        '{"step": 3, "records_taken": 0, "seed": 0, "group": 0}',
        f'{{"step": {10**400}, "records_taken": 0, "seed": 0}}',
    ],
)
def test_a_damaged_state_is_named(tmp_path, model, content):
    path = save(tmp_path, model, 3)
    (path / "training_state/state.json").write_text(content)
    with pytest.raises(UserError, match=r"state\.json"):
        load_training_state(path)


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors"])
def test_a_directory_in_the_place_of_a_file_is_named(tmp_path, model, name):
    path = save(tmp_path, model, 3) / "training_state" / name
    path.unlink()
    path.mkdir()
    with pytest.raises((UserError, OSError), match=name):
        load_training_state(path.parents[1])


def test_later_checkpoints_from_before_a_resume_do_not_replace_the_new_one(tmp_path, model):
    for step in (10, 40, 20):
        save(tmp_path, model, step, keep_last=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-40"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-20"


def test_a_link_in_the_place_of_a_checkpoint_is_replaced_and_not_followed(tmp_path, model):
    for name in ("other", "run"):
        (tmp_path / name).mkdir()
    other = save(tmp_path / "other", model, 5)
    (tmp_path / "run/checkpoint-5").symlink_to(other)
    (tmp_path / "run/checkpoint-4").symlink_to(other)
    path = save(tmp_path / "run", model, 5, keep_last=1)
    assert not path.is_symlink() and [each.name for each in checkpoints(tmp_path / "run")] == ["checkpoint-5"]
    assert load_training_state(other)[0].step == 5


def test_a_missing_directory_is_not_made_again(tmp_path, model):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "deleted", model, 3)
    assert not (tmp_path / "deleted").exists()
