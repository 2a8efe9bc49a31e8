"""What a run reports, and which rows a resumed run removes."""

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
def test_rows_after_the_checkpoint_are_removed(tmp_path, first_step, kept):
    path = tmp_path / "metrics.jsonl"
    rows = [("train", 0), ("train", 1), ("eval", 2), ("train", 2), ("eval", 4)]
    names = {"train": "total_loss", "eval": "eval_total_loss"}
    path.write_text(
        "".join(json.dumps({"step": step, names[kind]: 1.0}) + "\n" for kind, step in rows) + '{"step": 3, "to'
    )
    keep_rows_before(path, first_step)
    found = [("train" if "total_loss" in row else "eval", row["step"]) for row in read_rows(path)]
    assert found == kept


def test_a_restart_at_step_0_removes_every_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "eval_total_loss": 1.0}\n')
    keep_rows_before(path, 0)
    assert read_rows(path) == []


def test_only_the_first_rank_writes(tmp_path, capsys):
    with Journal(tmp_path / "logs", first_step=0, total_steps=3, active=False) as journal:
        journal.advance()
        journal.say("nothing")
        journal.training_row(0, 0, {"total_loss": 1.0}, ("total_loss",))
        journal.evaluation_row(1, {"eval_total_loss": 1.0})
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().out == ""


def test_the_log_line_has_the_named_metrics_in_their_order(tmp_path, capsys):
    with Journal(tmp_path, first_step=0, total_steps=3) as journal:
        metrics = {"total_loss": 1.5, "lr": 1e-3, "b": 2.0, "a": 3.0}
        journal.training_row(2, 1, metrics, ("total_loss", "a", "missing", "b"))
    assert capsys.readouterr().out.startswith("step: 2, total_loss: 1.500, a: 3.000, b: 2.000, epoch: 1 ")
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert {name: row[name] for name in metrics} == metrics and (row["step"], row["epoch"]) == (2, 1)


def test_evaluations_of_an_earlier_start_are_known(tmp_path):
    for first_step in (0, 3):
        with Journal(tmp_path, first_step=first_step, total_steps=5) as journal:
            if not first_step:
                journal.evaluation_row(3, {"eval_f1": 50.0})
            assert journal.evaluated(3, "eval_f1") and not journal.evaluated(3, "eval_loss")


def test_making_a_journal_writes_nothing(tmp_path):
    Journal(tmp_path / "logs", first_step=0, total_steps=3)
    assert not (tmp_path / "logs").exists()


DAMAGED = ["", "x", "[1]", "7", '{"total_loss": 1}', '{"step": "3"}', '{"step": null}', "[" * 100000, "\x00\x1b[2J"]


def test_damaged_rows_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [*DAMAGED, '{"step": 1, "eval_f1": 2.0}', '{"step": 9, "total_loss": 1.0}']
    path.write_bytes(b"\xff\xfe\n" + "".join(f"{line}\n" for line in lines).encode())
    assert [row["step"] for row in read_rows(path)] == [1, 9]
    with Journal(tmp_path, first_step=5, total_steps=9) as journal:
        assert journal.evaluated(1, "eval_f1")
    assert path.read_text() == '{"step": 1, "eval_f1": 2.0}\n'


def test_a_line_that_cannot_be_printed_is_reported_and_the_rows_are_kept(tmp_path, monkeypatch):
    closed = []
    with Journal(tmp_path, first_step=0, total_steps=3, on_closed_output=lambda: closed.append(1)) as journal:
        with open("/dev/full", "w") as output:
            monkeypatch.setattr("sys.stdout", output)
            journal.training_row(0, 0, {"total_loss": 1.5}, ("total_loss",))
        monkeypatch.undo()
    assert closed == [1] and len(read_rows(tmp_path / "metrics.jsonl")) == 1
