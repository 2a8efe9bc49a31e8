"""The lines that a run begins its log with."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from data.reading.loader import Records
from launch.job_shape import JobShape
from tests.training.fakes import Numbers, SumModel, SumTask
from training.checkpoint import TrainingState
from training.description import describe_run
from training.distributed import World
from training.plan import UpdatePlan
from training.start import Start


@pytest.mark.parametrize(("words", "name"), [("", "bert-12x768-adamw-lr0.001-s5-seed42"), ("--run_name mine", "mine")])
def test_a_run_says_what_it_trains_on_what_and_from_where(words, name):
    config = parse(PretrainingConfig, ["--train-batch-size", "3", "--max_steps", "9", *words.split()])
    plan = UpdatePlan.of(config, TrainingState(4, 24, 42), records_per_epoch=7, data_parallel_size=2)
    evaluator = SimpleNamespace(mode="graph", model=SumModel(), world=World(JobShape(0, 2), "cpu"))
    lines = describe_run(config, SumTask(), Start(checkpoint="run/checkpoint-4"), plan, evaluator, False).split("\n")
    assert lines[0] == f"run {name}"
    assert lines[1] == "SumModel: 12 layers, hidden size 768, 0.0 million parameters"
    assert lines[2].startswith("graph mode, 2 process(es) on cpu, OneFlow ")
    assert lines[4:] == [
        "7 records of 5 tokens; one update takes 3 rows x 2 ranks x 1 micro-batches",
        "resuming run/checkpoint-4 at step 4 of 9",
    ]


def test_the_widths_of_batches_are_named():
    records = replace(Records(Numbers(7)), lengths=np.array([3, 3, 3, 4, 9, 9, 9]))
    task = SumTask(training=records, seq_length=13)
    config = parse(PretrainingConfig, ["--max_steps", "9"])
    plan = UpdatePlan.of(config, TrainingState(0, 0, 42), records_per_epoch=7, data_parallel_size=1)
    evaluator = SimpleNamespace(mode="eager", model=SumModel(), world=World(JobShape(), "cpu"))
    text = describe_run(config, task, Start(), plan, evaluator, False)
    assert "7 records of 8 or 13 tokens;" in text and text.endswith("starting from random weights at step 0 of 9")
