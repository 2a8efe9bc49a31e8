"""Several phases in one command: equal to separate commands, resumed after a kill, checked before the first step."""

import itertools
import json

import pytest

from configs.cli import parse
from configs.model import BertConfig
from configs.pretraining import PretrainingConfig
from tasks.pretraining import pretrain
from tests.conftest import write_records
from training import journal
from training.journal import read_rows
from utils.checkpoints import model_directory
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--loss_print_every_n_iters 1 --train-batch-size 4 --model_save_every_n_iter 2"
).split()
LONG = 17


@pytest.fixture
def long_records(tmp_path):
    """Longer records of the same kind."""
    return write_records(tmp_path / "long", LONG)


def train(mode, output, *words):
    pretrain(parse(PretrainingConfig, [*SMALL, "--output_dir", str(output), *map(str, words)]), mode)


def rows(directory):
    """The training rows without times, for comparison with another run."""
    timing = ("time", "throughput", "tokens_per_second", "model_flops_per_second", "model_flops_share")
    return [{k: v for k, v in row.items() if k not in timing} for row in read_rows(directory / "metrics.jsonl")]


@pytest.fixture
def in_phases(records_dir, long_records, tmp_path):
    """A function that writes a file of two phases, the second with more flags."""

    def write(second=(), first=()):
        file = tmp_path / "phases.json"
        short = {"ofrecord_path": str(records_dir), "max_steps": 5, "warmup-steps": 1, **dict(first)}
        long = {"ofrecord_path": str(long_records), "total_steps": 4, "lr": 2e-3, "train_batch_size": 3}
        file.write_text(json.dumps([short, {**long, "optimizer": "bert_adam", **dict(second)}]))
        return file

    return write


def test_the_phases_are_among_the_flags_that_all_ranks_must_share(in_phases):
    flags = parse(PretrainingConfig, [*SMALL, "--phases", str(in_phases())]).job_flags()
    assert (flags["phases"], flags["lr"], flags["phases[2].lr"]) == (2, 1e-2, 2e-3)
    assert "phases[1].lr" not in flags and "phases[2].ofrecord_path" not in flags


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_phases_equal_separate_commands(mode, records_dir, long_records, in_phases, tmp_path):
    train(mode, tmp_path / "one", "--phases", in_phases())
    train(mode, tmp_path / "a", "--ofrecord_path", records_dir, "--max_steps", 5, "--warmup_steps", 1)
    second = ("--lr", 2e-3, "--max_steps", 4, "--train_batch_size", 3, "--optim_name", "bert_adam")
    start = ("--init_checkpoint", tmp_path / "a")
    train(mode, tmp_path / "b", "--ofrecord_path", long_records, *second, *start)
    assert rows(tmp_path / "one/phase1") == rows(tmp_path / "a")
    assert rows(tmp_path / "one/phase2") == rows(tmp_path / "b")
    model = model_directory(tmp_path / "one")
    assert model == tmp_path / "one/phase2/checkpoint-4"
    assert BertConfig.from_json(model / "config.json").max_position_embeddings == 512


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_killed_run_resumes_in_its_phase(mode, in_phases, tmp_path, monkeypatch):
    phases = in_phases()
    train(mode, tmp_path / "whole", "--phases", phases)
    for steps in (3, 6):  # in the first phase; and, from its checkpoint after 2 on, in the second
        count = itertools.count(1)

        def advance(self, count=count, steps=steps):
            if next(count) == steps:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(journal.Journal, "advance", advance)
            train(mode, tmp_path / "cut", "--phases", phases, "--resume")
    assert (tmp_path / "cut/phase2/checkpoint-2").exists()
    train(mode, tmp_path / "cut", "--phases", phases, "--resume")
    for phase in ("phase1", "phase2"):
        assert rows(tmp_path / "cut" / phase) == rows(tmp_path / "whole" / phase)


def test_a_phase_may_continue_with_the_optimizer_state(in_phases, tmp_path):
    phases = in_phases({"optimizer": "adamw", "load_optimizer_state": True, "total_steps": 8})
    train("eager", tmp_path / "out", "--phases", phases)
    assert [row["step"] for row in rows(tmp_path / "out/phase2")] == [5, 6, 7]


def test_the_first_phase_has_the_positions_that_later_phases_need(in_phases, tmp_path, monkeypatch):
    monkeypatch.setattr(BertConfig, "max_position_embeddings", LONG - 3)  # as if the default were less than needed
    train("eager", tmp_path / "out", "--phases", in_phases())
    for phase in ("phase1", "phase2"):
        config = BertConfig.from_json(model_directory(tmp_path / "out" / phase) / "config.json")
        assert config.max_position_embeddings == LONG


@pytest.mark.parametrize(
    ("second", "words", "message"),
    [
        ({"ofrecord_path": "nowhere"}, "", "phase 2: .*nowhere"),
        ({"seq_length": 11}, "", "phase 2: --seq_length 11 disagrees"),
        ({"num_hidden_layers": 2}, "", "phase 2: --num_hidden_layers asks for .* 2"),
        ({"warmup_steps": 5}, "", "phase 2: --warmup_steps 5 is longer"),
        ({}, f"--max_position_embeddings {LONG - 1}", "phase 2: --max_position_embeddings 16"),
        ({"load_optimizer_state": True}, "", "phase 2: .* step 5.*--max_steps"),
        ({"output_dir": "x"}, "", "phase 2: output_dir applies to the whole run"),
        ({"learning_rte": 1}, "", "phase 2: .*Did you mean --learning_rate"),
        ({"lr": -1}, "", "phase 2: --lr must be at least 0"),
        ({}, "--checkpoint_path x", "--checkpoint_path"),
        ({}, "--do_train False", "--do_train False"),
    ],
)
def test_contradictions_are_found_before_the_first_step(second, words, message, in_phases, tmp_path):
    with pytest.raises(UserError, match=message):
        train("eager", tmp_path / "out", "--phases", in_phases(second), *words.split())
    assert not (tmp_path / "out").exists()


def test_the_used_directory_of_a_phase_is_refused_or_cleared(in_phases, tmp_path):
    left = tmp_path / "out/phase2"
    (left / "checkpoint-9").mkdir(parents=True)
    (left / "my_notes.txt").touch()
    with pytest.raises(UserError, match=r"phase 2: --output_dir .*phase2 is not empty"):
        train("eager", tmp_path / "out", "--phases", in_phases())
    train("eager", tmp_path / "out", "--phases", in_phases(), "--overwrite_output_dir")
    assert sorted(path.name for path in left.glob("*[0-9t]")) == [
        "checkpoint-2",
        "checkpoint-4",
        "latest",
        "my_notes.txt",
    ]


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", "[", '[{"lr": [1]}]'])
def test_files_without_phases_are_errors(content, records_dir, tmp_path):
    (tmp_path / "phases.json").write_text(content)
    with pytest.raises(UserError, match=r"phases\.json"):
        train("eager", tmp_path / "out", "--ofrecord_path", records_dir, "--phases", tmp_path / "phases.json")


def test_overwriting_removes_all_earlier_phases(records_dir, tmp_path):
    out, phases = tmp_path / "out", tmp_path / "phases.json"
    phases.write_text(json.dumps([{"max_steps": 2}, {"max_steps": 2}, {"max_steps": 2}]))
    train("eager", out, "--ofrecord_path", records_dir, "--phases", phases)
    assert model_directory(out) == out / "phase3/checkpoint-2"
    phases.write_text(json.dumps([{"max_steps": 2}, {"max_steps": 4}]))
    train("eager", out, "--ofrecord_path", records_dir, "--phases", phases, "--overwrite_output_dir")
    assert model_directory(out) == out / "phase2/checkpoint-4"
    train("eager", out, "--ofrecord_path", records_dir, "--max_steps", 6, "--overwrite_output_dir")
    assert model_directory(out) == out / "checkpoint-6"


def test_retired_flags_in_phases_are_warned_of(records_dir, tmp_path, capsys):
    phases = tmp_path / "phases.json"
    phases.write_text(json.dumps([{"max_steps": 2, "model_type": "bert"}]))
    train("eager", tmp_path / "out", "--ofrecord_path", records_dir, "--phases", phases)
    assert "--model_type has no effect here" in capsys.readouterr().err
