"""What a run writes, and what a resumed one cuts."""

import json

import pytest

from training.journal import Journal, keep_rows_before, read_rows


@pytest.mark.parametrize(
    ("first_step", "kept"),
    [
        (0, []),
        (2, [("train", 0), ("train", 1), ("eval", 2)]),
        (3, [("train", 0), ("train", 1), ("eval", 2), ("train", 2)]),
    ],
)
def test_rows_after_the_checkpoint_are_cut(tmp_path, first_step, kept):
    path = tmp_path / "metrics.jsonl"
    rows = [("train", 0), ("train", 1), ("eval", 2), ("train", 2), ("eval", 4)]
    names = {"train": "total_loss", "eval": "eval_total_loss"}
    path.write_text(
        "".join(json.dumps({"step": step, names[kind]: 1.0}) + "\n" for kind, step in rows) + '{"step": 3, "to'
    )
    keep_rows_before(path, first_step)
    found = [("train" if "total_loss" in row else "eval", row["step"]) for row in read_rows(path)]
    assert found == kept


def test_a_run_that_starts_again_keeps_no_evaluation_of_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "eval_total_loss": 1.0}\n')
    keep_rows_before(path, 0)
    assert read_rows(path) == []


def test_only_the_first_rank_writes(tmp_path, capsys):
    with Journal(tmp_path / "logs", first_step=0, total_steps=3, active=False) as journal:
        journal.advance()
        journal.say("nothing")
        journal.training_row(0, 0, {"total_loss": 1.0})
        journal.evaluation_row(1, {"eval_total_loss": 1.0})
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().out == ""
