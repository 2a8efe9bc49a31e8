"""Flags of sweep.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from configs.checks import MOST_SEED, at_least, at_most, given, local
from configs.cli import flag
from utils.errors import UserError


@dataclass(frozen=True)
class SweepConfig:
    """The flags of sweep.py."""

    command: str = flag(
        "",
        'training command with the flags that all trials share, such as "run_glue.py --task_name rte --data_dir glue"',
        metavar="COMMAND",
    )
    search: str = flag(
        "", 'JSON file that maps each flag to search to its values: [value, …] or {"low": X, "high": Y}', metavar="FILE"
    )
    output_dir: str = flag("sweep_output", "directory for the trials, trials.csv, best.json and the plots")
    trials: int = flag(20, "number of settings to try, including failed and pruned ones")
    jobs: int = flag(1, "number of trials to run at the same time")
    seeds: int = flag(
        1,
        "runs of each trial, with the command's --seed, --seed + 1, …; trials are compared by the median",
        unit="runs",
    )
    metric: str | None = flag(
        None,
        "metric by which trials are compared, with its name in metrics.jsonl",
        default_text="eval_score; eval_f1 for SQuAD; eval_total_loss for pretraining",
        metavar="NAME",
    )
    direction: str | None = flag(
        None,
        "whether higher or lower values of --metric are better",
        default_text="minimize for losses, perplexity and rmse, else maximize",
        choices=("maximize", "minimize"),
    )
    prune: bool = flag(
        True,
        "from the second evaluation on, stop a trial that is worse than the median of the earlier trials; needs "
        "evaluations during training and five complete trials",
    )
    seed: int = flag(42, "seed for choosing the settings")
    keep_all: bool = flag(False, "keep the checkpoints of all trials, not only those of the best one")
    resume: bool = flag(False, "continue the sweep in --output_dir; start one if the directory has no sweep")
    runner: str = flag(
        "local", "where the trials run: on this machine, or on the hosts of a Ray cluster", choices=("local", "ray")
    )

    most_used: ClassVar[tuple[str, ...]] = ("command", "search", "output_dir", "trials", "jobs", "seeds", "resume")

    def __post_init__(self) -> None:
        given(self, "command", "search")
        local(self, "output_dir")
        at_least(self, 1, "trials", "jobs", "seeds")
        at_least(self, 0, "seed")
        at_most(self, 10**5, "trials")
        at_most(self, 1000, "jobs", "seeds")
        at_most(self, MOST_SEED, "seed")
        if self.metric is not None and not self.metric.startswith("eval_"):
            raise UserError(f"--metric {self.metric} is not an evaluation metric: use a name that begins with eval_.")
