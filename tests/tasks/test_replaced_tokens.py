"""Pretraining with replaced-token detection: both modes, resume, what starts from it, its figures."""

import re
import shutil

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from conversion import read_checkpoint
from data.reading.loader import Records, read_batch
from data.reading.sampling import with_draws
from data.sources import open_sources
from modeling.pretrained import read_weights
from tasks.replaced_tokens import precision_and_recall
from tests.training.whole_runs import removed_by_overwriting, train, training_losses
from training.journal import read_rows
from utils.errors import UserError

RTD = "--objective rtd --generator_width 0.34 --max_steps 6 --model_save_every_n_iter 3 --val_fraction 0.3".split()


@pytest.fixture(scope="module")
def run(shared_records_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rtd")
    train("eager", shared_records_dir, directory, *RTD)
    return directory


def test_graph_mode_continues_a_run_with_the_same_figures(run, shared_records_dir, tmp_path):
    shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
    train("graph", shared_records_dir, tmp_path, *RTD, "--resume")
    whole, resumed = read_rows(run / "metrics.jsonl")[3:], read_rows(tmp_path / "metrics.jsonl")
    assert len(resumed) == 4
    for expected, row in zip(whole, resumed, strict=True):
        names = [name for name in expected if "rtd" in name or name.endswith("loss")]
        assert {name: row[name] for name in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-4)


def test_a_resumed_run_repeats_every_digit(run, shared_records_dir, tmp_path):
    shutil.copytree(run / "checkpoint-3", tmp_path / "checkpoint-3")
    losses = train("eager", shared_records_dir, tmp_path, *RTD, "--resume")
    assert losses == {step: loss for step, loss in training_losses(run).items() if step >= 3}


def test_the_total_is_the_weighted_sum_and_figures_are_logged(run):
    *rows, evaluation = read_rows(run / "metrics.jsonl")
    for row in rows:
        assert row["total_loss"] == pytest.approx(row["mlm_loss"] + 50 * row["rtd_loss"], rel=1e-5)
        assert {"rtd_accuracy", "rtd_precision", "rtd_recall"} <= set(row) and "rtd_found" not in row
    expected = evaluation["eval_mlm_loss"] + 50 * evaluation["eval_rtd_loss"]
    assert evaluation["eval_total_loss"] == pytest.approx(expected)
    assert {"eval_rtd_precision", "eval_rtd_recall", "eval_mlm_accuracy"} <= set(evaluation)
    assert removed_by_overwriting(run) == {path.name for path in run.iterdir()}


def test_other_tasks_and_objectives_start_from_the_discriminator(run, shared_records_dir, tmp_path):
    checkpoint = read_checkpoint(run / "checkpoint-6")
    stored = read_weights(run / "checkpoint-6/model.safetensors")
    assert set(stored) == {re.sub(r"^bert\.", "electra.", name) for name in checkpoint.state}
    words = ["--max_steps", "1", "--lr", "1e-9", "--init_checkpoint", str(run)]
    train("eager", shared_records_dir, tmp_path / "mlm", *words)
    name = "encoder.layer.1.output.dense.weight"
    weights = read_weights(tmp_path / "mlm/checkpoint-1/model.safetensors")
    np.testing.assert_allclose(weights[f"bert.{name}"], stored[f"electra.{name}"], atol=1e-6)
    rtd = ["--objective", "rtd", "--init_checkpoint", str(tmp_path / "mlm")]
    train("eager", shared_records_dir, tmp_path / "rtd", "--max_steps", "1", "--lr", "1e-9", *rtd)
    weights = read_weights(tmp_path / "rtd/checkpoint-1/model.safetensors")
    np.testing.assert_allclose(weights[f"electra.{name}"], stored[f"electra.{name}"], atol=1e-6)


def test_its_checkpoints_can_be_overwritten(run, shared_records_dir, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    train("eager", shared_records_dir, tmp_path / "run", "--max_steps", "1", "--overwrite_output_dir")
    assert not (tmp_path / "run/checkpoint-6").exists()


def test_draws_depend_on_the_seed_and_the_record_alone(records_dir):
    records = with_draws(Records(open_sources([records_dir])), seed=5)
    real = np.ones(7, bool)
    whole = read_batch(records, np.arange(7), real, np.arange(7) + 47)
    part = read_batch(records, np.arange(2, 5), real[2:5], np.arange(2, 5) + 47)
    np.testing.assert_array_equal(part["sampling_draws"], whole["sampling_draws"][2:5])
    other = read_batch(with_draws(Records(open_sources([records_dir])), seed=6), np.arange(7), real, np.arange(7) + 47)
    assert not (other["sampling_draws"] == whole["sampling_draws"]).any()
    many = read_batch(records, np.zeros(4000, int), np.ones(4000, bool), np.arange(4000))["sampling_draws"]
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01
    np.testing.assert_array_equal(whole["token_weights"], whole["input_mask"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--generator_width 1.5", "must be at most 1"),
        ("--generator_width 0", "must be above 0"),
        ("--rtd_weight -1", "must be at least 0"),
        ("--objective rtd --skip_mlm", "without a generator"),
    ],
)
def test_wrong_flags_are_named(words, message):
    with pytest.raises(UserError, match=message):
        parse(PretrainingConfig, words.split())


def test_precision_and_recall():
    shares = {"rtd_replaced": 0.2, "rtd_flagged": 0.1, "rtd_found": 0.05, "x": 1.0}
    assert precision_and_recall(shares) == {"x": 1.0, "rtd_precision": 0.5, "rtd_recall": 0.25}
    assert precision_and_recall({**shares, "rtd_flagged": 0.0, "rtd_found": 0.0})["rtd_precision"] == 0
    assert precision_and_recall({"x": 1.0}) == {"x": 1.0}
