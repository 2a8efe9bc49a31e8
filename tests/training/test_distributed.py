"""Two processes have the losses and figures of one, however a batch is split."""

import itertools
import shutil

import numpy as np
import pytest

import kernels
from configs.cli import parse
from configs.pretraining import PretrainingConfig
from tasks.pretraining import pretrain
from training.journal import read_rows
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 2 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 "
    "--weight_decay 0.1 --max_grad_norm 0.5 --loss_print_every_n_iters 1 --seed 5 --val-batch-size 3 --keep_last 0 "
    "--ema_decay 0.5"
).split()
WITHOUT_DROPOUT = "--attention_probs_dropout_prob 0 --hidden_dropout_prob 0".split()
MODES = ("eager", "graph")
SPLITS = ((6, 1), (3, 2), (2, 3))  # rows of a micro-batch on each of two ranks, micro-batches
# A factor so close to 1 leaves out many ordinary updates.
SPIKES = "--train-batch-size 6 --max_steps 24 --skip_loss_spikes --spike_factor 1.05".split()
STEPS = 9  # of 12 rows: past the first epoch's 47 records


def rows_of(directory):
    return read_rows(directory / "metrics.jsonl")


def column(directory, name):
    return np.array([row[name] for row in rows_of(directory) if name in row])


def losses(directory):
    return column(directory, "total_loss")


def evaluation(directory):
    return {name: value for name, value in rows_of(directory)[-1].items() if name.startswith("eval_")}


@pytest.fixture(scope="module")
def runs(two_ranks, shared_records_dir, tmp_path_factory):
    """The directory of the runs that one job of two ranks made."""
    root = tmp_path_factory.mktemp("runs")
    data = ["--ofrecord_path", str(shared_records_dir), "--val_ofrecord_path", str(shared_records_dir)]
    listing = []
    for mode, (rows, micro_batches) in itertools.product(MODES, SPLITS):
        flags = ["--train-batch-size", str(rows), "--grad-acc-steps", str(micro_batches)]
        flags += ["--output_dir", str(root / f"{mode}-{rows}x{micro_batches}"), "--max_steps", str(STEPS)]
        listing.append([mode, [*SMALL, *WITHOUT_DROPOUT, *data, *flags, "--model_save_every_n_iter", "4"]])
    for mode in MODES:
        flags = [*SMALL, *data, "--train-batch-size", "2", "--grad-acc-steps", "2", "--max_steps", "4"]
        flags += ["--model_save_every_n_iter", "2", "--do_eval", "False", "--output_dir"]
        whole, resumed = root / f"{mode}-dropout", root / f"{mode}-dropout-resumed"
        listing.append([mode, [*flags, str(whole)]])
        listing.append(["copy", [str(whole / "checkpoint-2"), str(resumed)]])
        listing.append([mode, [*flags, str(resumed), "--resume"]])
        if mode == "eager" or kernels.is_loaded():
            flags = [*WITHOUT_DROPOUT, *data, *SPIKES, "--output_dir", str(root / f"{mode}-spikes")]
            listing.append([mode, [*SMALL, *flags]])
    job = two_ranks(root, listing)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output[-3000:]
    return root


def one_process(mode, records_dir, output_dir, *words):
    flags = ["--ofrecord_path", str(records_dir), "--val_ofrecord_path", str(records_dir), "--max_steps", str(STEPS)]
    flags += ["--output_dir", str(output_dir), *words]
    pretrain(parse(PretrainingConfig, [*SMALL, *WITHOUT_DROPOUT, *flags]), mode)
    return output_dir


@pytest.fixture(scope="module")
def alone(shared_records_dir, tmp_path_factory):
    """The same run in one process."""
    return one_process("eager", shared_records_dir, tmp_path_factory.mktemp("alone"), "--train-batch-size", "12")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_the_losses_of_one_process(runs, alone, mode, split):
    rows, micro_batches = split
    np.testing.assert_allclose(losses(runs / f"{mode}-{rows}x{micro_batches}"), losses(alone), rtol=1e-5)


@pytest.mark.parametrize(
    "mode",
    ["eager", pytest.param("graph", marks=pytest.mark.skipif(not kernels.is_loaded(), reason="of our kernels"))],
)
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_the_gradient_norms_of_one_process(runs, alone, mode, split):
    rows, micro_batches = split
    expected = column(alone, "grad_norm")
    assert len(expected) == STEPS and expected.max() > 0.5  # --max_grad_norm: some are clipped
    np.testing.assert_allclose(column(runs / f"{mode}-{rows}x{micro_batches}", "grad_norm"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "mode",
    ["eager", pytest.param("graph", marks=pytest.mark.skipif(not kernels.is_loaded(), reason="of our kernels"))],
)
def test_ranks_leave_out_the_updates_that_one_process_leaves_out(runs, mode, shared_records_dir, tmp_path):
    one_process("eager", shared_records_dir, tmp_path, *SPIKES, "--train-batch-size", "12")
    expected = column(tmp_path, "weight_norm")
    assert 2 < (expected[1:] == expected[:-1]).sum() < 8  # updates are left out
    np.testing.assert_allclose(column(runs / f"{mode}-spikes", "weight_norm"), expected, rtol=1e-6)
    np.testing.assert_allclose(losses(runs / f"{mode}-spikes"), losses(tmp_path), rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_counts_each_record_once(runs, alone, mode):
    expected = evaluation(alone)
    assert expected["eval_nsp_accuracy"] * 47 == pytest.approx(round(expected["eval_nsp_accuracy"] * 47))
    assert expected["eval_ema_mlm_loss"] != expected["eval_mlm_loss"]
    assert evaluation(runs / f"{mode}-3x2") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_two_ranks_resumes_with_one(runs, alone, mode, shared_records_dir, tmp_path):
    shutil.copytree(runs / f"{mode}-3x2" / "checkpoint-4", tmp_path / "checkpoint-4")
    split = ("--train-batch-size", "4", "--grad-acc-steps", "3", "--resume")
    resumed = one_process(mode, shared_records_dir, tmp_path, *split)
    np.testing.assert_allclose(losses(resumed), losses(alone)[4:], rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_with_dropout_repeats_every_digit(runs, mode):
    whole, resumed = losses(runs / f"{mode}-dropout"), losses(runs / f"{mode}-dropout-resumed")
    assert len(whole) == 4
    assert whole[2:].tolist() == resumed.tolist()


def test_checkpoints_do_not_depend_on_the_number_of_ranks(runs, alone):
    def files(directory):
        return {str(path.relative_to(directory)) for path in directory.rglob("*")}

    assert files(runs / "graph-6x1" / f"checkpoint-{STEPS}") == files(alone / f"checkpoint-{STEPS}")


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ("--train-global-batch-size 7", "is not divisible by the 2 ranks"),
        ("--train-global-batch-size 8 --train-batch-size 3", "pass only one of them"),
    ],
)
def test_contradicting_batch_sizes_are_errors(words, mistake):
    with pytest.raises(UserError, match=mistake):
        parse(PretrainingConfig, words.split()).batch.train_rows(2)
