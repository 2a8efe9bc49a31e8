"""Pretraining with the span-boundary objective: both modes, resume, evaluation and checkpoints."""

import shutil

import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from modeling.pretrained import read_weights
from tests.training.whole_runs import removed_by_overwriting, train, training_losses
from training.journal import read_rows
from utils.errors import UserError

SPANS = (
    "--num_hidden_layers 1 --span_boundary_objective --masking dynamic --masking_chunks span "
    "--masked_lm_prob 0.4 --val_fraction 0.3 --max_steps 4 --model_save_every_n_iter 2"
).split()


@pytest.fixture(scope="module")
def run(shared_records_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("spans")
    train("eager", shared_records_dir, directory, *SPANS)
    return directory


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_both_modes_continue_a_run(run, shared_records_dir, tmp_path, mode):
    shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2")
    losses = train(mode, shared_records_dir, tmp_path, *SPANS, "--resume")
    expected = {step: loss for step, loss in training_losses(run).items() if step >= 2}
    assert losses == (expected if mode == "eager" else pytest.approx(expected, rel=1e-5))


def test_figures_and_files(run, shared_records_dir, tmp_path):
    *rows, evaluation = read_rows(run / "metrics.jsonl")
    for row in rows:
        assert row["total_loss"] == pytest.approx(row["mlm_loss"] + row["nsp_loss"] + row["sbo_loss"], rel=1e-5)
    total = sum(evaluation[f"eval_{name}_loss"] for name in ("mlm", "nsp", "sbo"))
    assert evaluation["eval_total_loss"] == pytest.approx(total) and "eval_sbo_accuracy" in evaluation
    assert removed_by_overwriting(run) == {path.name for path in run.iterdir()}
    checkpoint = run / "checkpoint-4"
    head = read_weights(checkpoint / "training_only.safetensors")
    assert head and all(name.startswith("span_boundary.") for name in head)
    assert not set(head) & set(read_weights(checkpoint / "model.safetensors"))
    words = ("--do_train", "False", "--init_checkpoint", str(checkpoint), "--val_fraction", "0.3")
    train("eager", shared_records_dir, tmp_path / "again", *words, *SPANS[:9])
    again = read_rows(tmp_path / "again/metrics.jsonl")[-1]
    assert again["eval_sbo_loss"] == pytest.approx(evaluation["eval_sbo_loss"], rel=1e-5)
    (checkpoint / "training_only.safetensors").unlink()
    with pytest.raises(UserError, match="has no span_boundary"):
        train("eager", shared_records_dir, tmp_path / "again", *words, *SPANS[:9])
    train("eager", shared_records_dir, tmp_path / "again", *words, *SPANS[:9], "--eval_only_mlm")


@pytest.mark.parametrize("other", ["--objective rtd", "--skip_mlm"])
def test_it_needs_masked_lm(other):
    with pytest.raises(UserError, match=f"--span_boundary_objective needs the labels .* combined with {other}: omit"):
        parse(PretrainingConfig, ["--ofrecord_path", "x", "--span_boundary_objective", *other.split()])
