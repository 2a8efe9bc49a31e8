"""--padding longest and none: the same losses in both modes, on any number of ranks, and after a restart."""

import shutil

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from data.reading import loader
from tasks.pretraining import pretrain
from training.journal import read_rows

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--loss_print_every_n_iters 1 --val-batch-size 6 --max_steps 9 --model_save_every_n_iter 5 --keep_last 0"
).split()
WITHOUT_DROPOUT = "--attention_probs_dropout_prob 0 --hidden_dropout_prob 0".split()
SPLIT = "--train-batch-size 3 --grad-acc-steps 2".split()


def flags(records_dir, output, *words, padding="longest"):
    data = ["--ofrecord_path", str(records_dir), "--val_ofrecord_path", str(records_dir)]
    return [*SMALL, *data, "--output_dir", str(output), "--padding", padding, *words]


def losses(directory):
    return [row["total_loss"] for row in read_rows(directory / "metrics.jsonl") if "total_loss" in row]


def evaluation(directory):
    row = read_rows(directory / "metrics.jsonl")[-1]
    return [value for name, value in row.items() if name.startswith("eval_")]


@pytest.fixture(scope="module")
def alone(shared_records_dir, less_padding, tmp_path_factory):
    """A run of one process in eager mode without accumulation."""
    directory = tmp_path_factory.mktemp("alone")
    words = flags(shared_records_dir, directory, *WITHOUT_DROPOUT, "--train-batch-size", "12", padding=less_padding)
    pretrain(parse(PretrainingConfig, words), "eager")
    return directory


def test_evaluation_equals_that_with_full_padding(alone, shared_records_dir, tmp_path):
    found = evaluation(alone)
    words = flags(shared_records_dir, tmp_path, "--do_train", "False", "--init_checkpoint", str(alone))
    pretrain(parse(PretrainingConfig, [*words, "--padding", "max_length"]), "eager")
    assert len(found) == 6
    np.testing.assert_allclose(found, evaluation(tmp_path), rtol=1e-5)


def test_graph_mode_has_the_same_losses(alone, less_padding, shared_records_dir, tmp_path, capsys):
    split = ("--train-batch-size", "6", "--grad-acc-steps", "2")
    words = flags(shared_records_dir, tmp_path, *WITHOUT_DROPOUT, *split, padding=less_padding)
    pretrain(parse(PretrainingConfig, words), "graph")
    lengths = {"longest": "8 or 11", "none": "up to 11"}[less_padding]
    assert f"47 records of {lengths} tokens" in capsys.readouterr().out
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)
    np.testing.assert_allclose(evaluation(tmp_path), evaluation(alone), rtol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_resume_is_exact(mode, less_padding, shared_records_dir, tmp_path):
    words = [*SPLIT, "--do_eval", "False", "--padding", less_padding]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    pretrain(parse(PretrainingConfig, flags(shared_records_dir, whole, *words)), mode)
    shutil.copytree(whole / "checkpoint-5", resumed / "checkpoint-5")
    pretrain(parse(PretrainingConfig, flags(shared_records_dir, resumed, *words, "--resume")), mode)
    assert losses(resumed) == losses(whole)[5:]


def test_an_epoch_resumed_with_another_batch_size_takes_each_record_once(shared_records_dir, tmp_path, monkeypatch):
    taken = {}
    read_batch = loader.read_batch

    def noting(records, indices, real, places, width=None):
        taken.update(zip(places[real].tolist(), indices[real].tolist(), strict=True))
        return read_batch(records, indices, real, places, width)

    monkeypatch.setattr(loader, "read_batch", noting)
    words = flags(shared_records_dir, tmp_path, "--do_eval", "False", "--epochs", "1")
    pretrain(parse(PretrainingConfig, [*words, "--train-batch-size", "6", "--max_steps", "3"]), "eager")
    first = {place: record for place, record in taken.items() if place < 18}
    taken.clear()
    words = [word for word in words if word not in ("--max_steps", "9")]
    pretrain(parse(PretrainingConfig, [*words, "--train-batch-size", "4", "--resume"]), "eager")
    assert sorted(taken) == list(range(18, 47))
    assert sorted([*first.values(), *taken.values()]) == list(range(47))


def test_two_ranks_equal_one_process(alone, less_padding, two_ranks, shared_records_dir, tmp_path):
    words = [*WITHOUT_DROPOUT, *SPLIT, "--padding", less_padding]
    runs = [[mode, flags(shared_records_dir, tmp_path / mode, *words)] for mode in ("eager", "graph")]
    job = two_ranks(tmp_path, runs)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output[-3000:]
    for mode in ("eager", "graph"):
        np.testing.assert_allclose(losses(tmp_path / mode), losses(alone), rtol=1e-5)
        np.testing.assert_allclose(evaluation(tmp_path / mode), evaluation(alone), rtol=1e-4)
