"""Spans and a changing rate in whole runs: both modes, resume, and flags without effect."""

import shutil

import pytest

from tests.training.whole_runs import train, training_losses
from utils.errors import UserError

WORDS = (
    "--masking dynamic --masking_chunks span --masked_lm_prob 0.5 --masked_lm_prob_end 0.2 --max_steps 6 "
    "--max_predictions_per_seq 7 --model_save_every_n_iter 3"
).split()


def test_a_resumed_run_draws_the_same_spans(shared_records_dir, tmp_path):
    losses = train("eager", shared_records_dir, tmp_path / "whole", *WORDS)
    shutil.copytree(tmp_path / "whole/checkpoint-3", tmp_path / "resumed/checkpoint-3")
    resumed = train("graph", shared_records_dir, tmp_path / "resumed", *WORDS, "--resume")
    assert resumed == pytest.approx({step: loss for step, loss in losses.items() if step >= 3}, rel=1e-4)
    words = ["--masking_chunks", "word"]
    train("eager", shared_records_dir, tmp_path / "words", *WORDS, *words)
    assert training_losses(tmp_path / "words")[0] != losses[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--masking_chunks span", "--masking_chunks has no effect on the masks in"),
        ("--masked_lm_prob_end 0.3", "--masked_lm_prob_end has no effect on the masks in"),
        ("--masking dynamic --masked_lm_prob_end 1.5", "must be above 0 and below 1"),
        ("--masking dynamic --masked_lm_prob_end 0.3 --train_hours 1", "--max_steps or --epochs"),
    ],
)
def test_wrong_flags_are_named(words, message, shared_records_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        train("eager", shared_records_dir, tmp_path / "run", *words.split())
