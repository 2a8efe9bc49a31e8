"""Where runs start: fresh, from weights, from a checkpoint with its optimizer, or where they stopped."""

import dataclasses

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from launch.job_shape import JobShape
from modeling import BertForPreTraining, BertForQuestionAnswering
from tests.conftest import VOCAB_SIZE
from training.checkpoint import TrainingState, save_checkpoint
from training.distributed import World
from training.run_directory import RunDirectory
from training.start import (
    Start,
    build_model,
    check_same_records,
    check_sizes,
    check_steps_left,
    find_start,
    find_vocabulary,
)
from utils.errors import UserError

WORLD = World(JobShape(), "cpu")
VOCAB = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, VOCAB_SIZE))]) + "\n"


@pytest.fixture
def run(tmp_path, tiny_config):
    """The output directory of a run that was stopped after 4 updates."""
    model = BertForPreTraining(tiny_config, seed=1)
    moments = {"cls.predictions.bias.m": np.ones(3, np.float32)}
    state = TrainingState(4, 28, seed=5)
    given = {"tokenizer": {"vocab.txt": VOCAB.encode()}, "keep_last": 0}
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run", model, model.to_arrays(), moments, state, **given)
    return tmp_path / "run"


def found(output, *words):
    config = parse(PretrainingConfig, ["--output_dir", str(output), "--seed", "5", *map(str, words)])
    return find_start(config, RunDirectory.of(config.run), WORLD)


def test_fresh(run, tmp_path):
    for words in ((), ("--resume",), ("--load_from", "scratch", "--init_checkpoint", run)):
        start = found(tmp_path / "new", *words)
        assert (start.path, start.checkpoint, start.resumes, start.config) == (None, None, False, None)
    assert start.training_state(5) == (TrainingState(0, 0, 5), {})


def test_weights_alone_start_at_step_0(run, tmp_path, tiny_config):
    start = found(tmp_path / "new", "--init_checkpoint", run)
    assert start.path == run / "checkpoint-4" and start.checkpoint is None
    assert start.config == tiny_config and start.vocab_file == run / "checkpoint-4/vocab.txt"
    assert start.training_state(7)[0] == TrainingState(0, 0, 7)


def test_a_resumed_run_has_its_own_seed(run):
    start = found(run, "--resume")
    assert start.resumes and start.path == start.checkpoint == run / "checkpoint-4"
    state, moments = start.training_state(5)
    assert state == TrainingState(4, 28, 5) and list(moments) == ["cls.predictions.bias.m"]
    with pytest.raises(UserError, match="--seed 6 differs from the run's seed, 5"):
        start.training_state(6)


@pytest.mark.parametrize(("words", "step"), [((), 4), (("--load_optimizer_state", "False"), 0)])
def test_another_runs_checkpoint_may_bring_its_optimizer(run, tmp_path, words, step):
    start = found(tmp_path / "new", "--load_from", "checkpoint", "--checkpoint_path", run, *words)
    assert start.path == run / "checkpoint-4" and not start.resumes
    assert start.training_state(6)[0].step == step


def test_without_training_the_runs_own_checkpoint_is_evaluated(run, tmp_path):
    assert found(run, "--do_train", "False").path == run / "checkpoint-4"
    with pytest.raises(UserError, match=r"there is no checkpoint in .*--init_checkpoint"):
        found(tmp_path / "new", "--do_train", "False")


def test_weights_can_be_dropped(run):
    start = found(run, "--resume")
    assert start.drop_weights("cls.predictions.") and not start.drop_weights("cls.predictions.")
    assert not Start().drop_weights("cls.")


def test_a_built_model_has_the_weights(run, tiny_config):
    flags = parse(PretrainingConfig, []).run
    start = found(run, "--resume")
    expected = {name: array.copy() for name, array in start.weights.state.items()}
    model = build_model(start, BertForPreTraining, start.config, flags, WORLD)
    for name, array in model.to_arrays().items():
        np.testing.assert_array_equal(array, expected[name])
    assert not start.weights.state
    fresh = build_model(Start(), BertForPreTraining, tiny_config, flags, WORLD).to_arrays()
    same = BertForPreTraining(tiny_config, flags.seed).to_arrays()
    assert all(np.array_equal(fresh[name], same[name]) for name in same)


def test_evaluation_needs_every_weight_that_it_uses(run):
    flags = parse(PretrainingConfig, ["--do_train", "False"]).run
    start = found(run, "--resume")
    with pytest.raises(UserError, match="has no qa_outputs, so it was not trained for this task"):
        build_model(start, BertForQuestionAnswering, start.config, flags, WORLD)
    start = found(run, "--resume")
    build_model(start, BertForQuestionAnswering, start.config, flags, WORLD, unused=("qa_outputs.",))


def test_the_vocabulary_is_that_of_the_weights(run, tmp_path, capsys):
    start, own = found(run, "--resume"), run / "checkpoint-4/vocab.txt"
    assert find_vocabulary(start, None, True).path == own
    assert find_vocabulary(start, str(run), True).path == own
    other = tmp_path / "other.txt"
    other.write_text(VOCAB.replace("w5\nw6", "w6\nw5"))
    with pytest.raises(UserError, match="is not the model's"):
        find_vocabulary(start, str(other), True)
    assert not find_vocabulary(start, None, False).rules.do_lower_case
    assert "--do_lower_case False contradicts" in capsys.readouterr().err
    assert find_vocabulary(Start(), str(other), True).path == other
    with pytest.raises(UserError, match="--vocab_file is missing"):
        find_vocabulary(Start(), None, True)


def test_sizes_must_fit(run, tiny_config):
    start = found(run, "--resume")
    check_sizes(start, tiny_config, VOCAB_SIZE, 13)
    with pytest.raises(UserError, match="13 positions"):
        check_sizes(start, tiny_config, VOCAB_SIZE, 14)
    with pytest.raises(UserError, match=f"{VOCAB_SIZE + 1} entries"):
        check_sizes(start, tiny_config, VOCAB_SIZE + 1, 13)
    larger = dataclasses.replace(tiny_config, vocab_size=VOCAB_SIZE + 128)
    with pytest.raises(UserError, match="use the model's vocabulary"):
        check_sizes(start, larger, VOCAB_SIZE, 13)
    check_sizes(Start(), larger, VOCAB_SIZE, 13)


def test_a_finished_checkpoint_leaves_nothing_to_train(run):
    loaded = Start(checkpoint=run / "checkpoint-4")
    check_steps_left(loaded, 4, 5)
    with pytest.raises(UserError, match="nothing to train"):
        check_steps_left(loaded, 4, 4)
    check_steps_left(dataclasses.replace(loaded, resumes=True), 4, 4)


def test_one_rank_has_the_same_records_as_itself():
    check_same_records(WORLD, None, ())
