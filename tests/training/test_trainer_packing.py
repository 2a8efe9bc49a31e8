"""--packing best_fit: the same losses on any number of ranks, in both modes and after a restart."""

import shutil

import numpy as np
import pytest

import kernels
from configs.cli import parse
from configs.pretraining import PretrainingConfig
from tasks.pretraining import pretrain
from tests.training.test_trainer_padding import SMALL, WITHOUT_DROPOUT, losses
from utils.errors import UserError

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")

SHORT = "--max_steps 5 --model_save_every_n_iter 3 --train-batch-size 3 --packing best_fit".split()
SPLIT = ["--grad-acc-steps", "2"]


def flags(records_dir, output, *words):
    return [*SMALL, *SHORT, "--ofrecord_path", str(records_dir), "--output_dir", str(output), *words]


def run(mode, words):
    pretrain(parse(PretrainingConfig, words), mode)


@pytest.fixture(scope="module")
def alone(shared_records_dir, tmp_path_factory):
    """A run of one process in eager mode, with two micro-batches of 33 tokens."""
    directory = tmp_path_factory.mktemp("alone")
    run("eager", flags(shared_records_dir, directory, *WITHOUT_DROPOUT, *SPLIT))
    return directory


def test_two_ranks_equal_one_process_and_graph_mode_equals_eager_mode(alone, two_ranks, shared_records_dir, tmp_path):
    runs = [[mode, flags(shared_records_dir, tmp_path / mode, *WITHOUT_DROPOUT)] for mode in ("eager", "graph")]
    job = two_ranks(tmp_path, runs)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output[-3000:]
    assert "packed rows of 33 tokens" in output
    for mode in ("eager", "graph"):
        np.testing.assert_allclose(losses(tmp_path / mode), losses(alone), rtol=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_resume_is_exact(mode, shared_records_dir, tmp_path):
    words = [*SPLIT, "--masking", "dynamic", "--train_accuracy_every_n_iters", "5"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(mode, flags(shared_records_dir, whole, *words))
    shutil.copytree(whole / "checkpoint-3", resumed / "checkpoint-3")
    run(mode, flags(shared_records_dir, resumed, *words, "--resume"))
    assert losses(resumed) == losses(whole)[3:]


@pytest.mark.parametrize("words", [["--train-batch-size", "4"], ["--packing", "none"]])
def test_a_run_continues_in_rows_of_the_same_size(words, alone, shared_records_dir, tmp_path):
    shutil.copytree(alone / "checkpoint-3", tmp_path / "checkpoint-3")
    with pytest.raises(UserError, match="checkpoint-3 was trained with packed rows of 33 tokens"):
        run("eager", flags(shared_records_dir, tmp_path, *words, "--resume"))


def test_learning_rates_for_a_number_of_sequences_are_refused(shared_records_dir, tmp_path):
    with pytest.raises(UserError, match="--lr_for_batch counts the sequences"):
        run("eager", flags(shared_records_dir, tmp_path, "--lr_for_batch", "8"))
