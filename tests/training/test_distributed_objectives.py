"""Two processes against one: replaced-token detection, distillation, and runs that end by the clock."""

import numpy as np
import pytest

from tests.training.whole_runs import SMALL, train
from training.journal import read_rows

MODES = ("eager", "graph")
RTD = (
    "--objective rtd --generator_width 0.34 --max_steps 3 --val_fraction 0.3 --attention_probs_dropout_prob 0 "
    "--hidden_dropout_prob 0"
).split()
DISTILL = (
    "--num_hidden_layers 1 --distill_hidden_weight 1 --distill_attention_weight 1 --max_steps 2 "
    "--attention_probs_dropout_prob 0 --hidden_dropout_prob 0 --teacher"
).split()
FIGURES = ("total_loss", "mlm_loss", "rtd_loss", "rtd_precision", "rtd_recall")


@pytest.fixture(scope="module")
def teacher(shared_records_dir, tmp_path_factory):
    """A wider model."""
    directory = tmp_path_factory.mktemp("teacher")
    train("eager", shared_records_dir, directory, "--hidden_size_per_head", "7", "--max_steps", "1")
    return str(directory)


@pytest.fixture(scope="module")
def runs(two_ranks, shared_records_dir, teacher, tmp_path_factory):
    """The directory of the runs that one job of two ranks made."""
    root = tmp_path_factory.mktemp("runs")
    flags = [*SMALL, "--ofrecord_path", str(shared_records_dir)]
    split = ["--train-batch-size", "3", "--grad-acc-steps", "2"]
    listing = [[mode, [*flags, *RTD, *split, "--output_dir", str(root / mode)]] for mode in MODES]
    distill = [*flags, *DISTILL, teacher, *split]
    listing += [[mode, [*distill, "--output_dir", str(root / f"distilled-{mode}")]] for mode in MODES]
    listing.append(["eager", [*flags, "--train_hours", "0.0005", "--output_dir", str(root / "timed")]])
    job = two_ranks(root, listing)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output[-3000:]
    return root


@pytest.fixture(scope="module")
def alone(shared_records_dir, tmp_path_factory):
    """The same run in one process."""
    directory = tmp_path_factory.mktemp("alone")
    train("eager", shared_records_dir, directory, *RTD, "--train-batch-size", "12")
    return read_rows(directory / "metrics.jsonl")


@pytest.mark.parametrize("mode", MODES)
def test_ranks_detect_replaced_tokens_as_one_process(runs, alone, mode):
    found = read_rows(runs / mode / "metrics.jsonl")
    assert len(found) == len(alone) == 4
    for row, expected in zip(found, alone, strict=True):
        names = [name for name in expected if name.removeprefix("eval_") in FIGURES]
        assert len(names) == 5
        np.testing.assert_allclose([row[name] for name in names], [expected[name] for name in names], rtol=1e-4)


def test_ranks_learn_from_a_teacher_as_one_process(runs, teacher, shared_records_dir, tmp_path):
    train("eager", shared_records_dir, tmp_path, *DISTILL, teacher, "--train-batch-size", "12")
    names = ("total_loss", "distill_loss", "distill_hidden_loss", "distill_attention_loss", "grad_norm")
    alone = [[row[name] for name in names] for row in read_rows(tmp_path / "metrics.jsonl")]
    for mode in MODES:
        rows = read_rows(runs / f"distilled-{mode}/metrics.jsonl")
        np.testing.assert_allclose([[row[name] for name in names] for row in rows], alone, rtol=1e-4)


def test_ranks_stop_together_when_the_time_is_over(runs):
    rows = [row for row in read_rows(runs / "timed/metrics.jsonl") if "lr" in row]
    assert rows[-1]["lr"] == 0 and rows[-1]["train_seconds"] < 60
