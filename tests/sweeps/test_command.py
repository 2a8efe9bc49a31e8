"""The command of a sweep: which are accepted, and the command lines of its runs."""

import sys
from pathlib import Path

import pytest

from configs.cli import parse
from configs.glue import GlueConfig
from sweeps.command import Command
from utils.errors import UserError

TEXT = "run_glue.py --task_name rte --data_dir 'my glue' --seed 7"


def test_a_run_has_the_flags_of_the_command_and_of_its_setting():
    command = Command.parse(TEXT)
    python, script, *words = command.argv({"lr": 1.5e-05, "freeze_embeddings": True}, 9, Path("out"))
    assert python == sys.executable and Path(script).name == "run_glue.py"
    config = parse(GlueConfig, words)
    assert (config.data.data_dir, config.optimizer.lr, config.optimizer.freeze_embeddings) == ("my glue", 1.5e-5, True)
    assert (config.run.seed, config.run.output_dir, config.run.resume) == (9, "out", True)


def test_flags_are_known_by_every_name():
    command = Command.parse(TEXT + " --learning-rate=3e-5")
    assert command.flags == {"task_name", "data_dir", "seed", "lr"}
    assert command.searched("--batch-size", "here") == "train_batch_size"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_glue.py --task_name 'rte", "cannot be split into words"),
        ("rm -rf /", "must begin with one of run_classifier.py"),
        (TEXT + " --output-dir x", "sets --output_dir: remove it"),
        (TEXT + " --checkpoint_path x", "sets --checkpoint_path"),
        (TEXT + " --seeds 3", "use the flag --seeds of sweep.py"),
        (TEXT + " --lr much", "--command run_glue.py: --lr: 'much' is not a number"),
        (TEXT + " --lerning_rate 1", "Did you mean"),
        (TEXT + " --do_train False", "each trial trains"),
    ],
)
def test_a_wrong_command_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Command.parse(text)


def test_a_checkpoint_to_start_from_is_accepted():
    start = " --load_from checkpoint --checkpoint_path start"
    assert Command.parse(TEXT + start).config.run.checkpoint_path == "start"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("--lerning_rate", "here: --lerning_rate is not a flag here. Did you mean --learning_rate"),
        ("output_dir", "sweep.py sets it"),
        ("seed", "use --seeds"),
        ("--task-name", "--command also sets --task_name"),
        ("use_xla", "is not a flag here"),
    ],
)
def test_a_flag_that_cannot_be_searched_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        Command.parse(TEXT).searched(name, "here")
