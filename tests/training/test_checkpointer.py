"""When checkpoints are saved, and what the probes are shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from configs.training import RunFlags
from conversion.tokenizer_files import read_vocabulary
from modeling import BertForPreTraining
from tests.training.fakes import ALONE, FakeStep
from training.checkpoint import TrainingState, load_training_state
from training.checkpointer import Checkpointer
from training.plan import UpdatePlan
from utils.checkpoints import checkpoints

FLAGS = RunFlags(model_save_every_n_iter=4, keep_last=2, save_at_steps=(0, 5))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]


class Probes:
    """Probes that note what they are shown."""

    def __init__(self):
        self.shown = []

    def due(self, done):
        return done == 3

    def __call__(self, checkpoint, step, last, journal):
        self.shown.append((checkpoint.name, step, last))


@pytest.fixture
def checkpointer(tmp_path, tiny_config):
    model = BertForPreTraining(tiny_config, seed=1)
    config = parse(PretrainingConfig, ["--epochs", "1", "--train-batch-size", "6"])
    plan = UpdatePlan.of(config, TrainingState(0, 0, seed=5), records_per_epoch=47, data_parallel_size=1)
    journal = SimpleNamespace(say=print)
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
    vocabulary = read_vocabulary(tmp_path / "words.txt", True)
    return Checkpointer(tmp_path, model, FakeStep(), plan, vocabulary, Probes(), FLAGS, journal, ALONE)


def test_due_at_multiples_and_for_probes(checkpointer):
    assert [done for done in range(9) if checkpointer.due(done)] == [0, 3, 4, 5, 8]
    checkpointer.probes = None
    assert not checkpointer.due(3)


def test_checkpoints_at_chosen_steps_are_kept(checkpointer, tmp_path):
    for done in (0, 4, 5, 7, 8):
        checkpointer.save(done)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (0, 5, 7, 8)]


def test_a_checkpoint_has_the_plans_state_and_the_steps_moments(checkpointer, tmp_path, capsys):
    for done in (4, 7, 8):
        checkpointer.save(done)
    assert checkpointer.saved_step == 8 and f"saved {tmp_path / 'checkpoint-8'}" in capsys.readouterr().out
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-7", "checkpoint-8"]
    state, moments = load_training_state(tmp_path / "checkpoint-8")
    assert state == TrainingState(8, 47, seed=5, group=6)  # the last update of the epoch is not full
    assert np.array_equal(moments["w.m"], np.zeros(2))
    assert (tmp_path / "checkpoint-8/vocab.txt").read_text().split() == WORDS


def test_probes_see_the_newest_checkpoint(checkpointer):
    checkpointer.probe(3)
    assert checkpointer.probes.shown == []  # there is none yet
    checkpointer.save(4)
    checkpointer.probe(5, last=True)
    assert checkpointer.probes.shown == [("checkpoint-4", 5, True)]
