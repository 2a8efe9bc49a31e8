"""Several seeds start at --seed, and the last one must exist too."""

import pytest

from configs.cli import parse
from configs.glue import GlueConfig
from utils.errors import UserError

WORDS = ["--task_name", "rte", "--data_dir", "x"]


def test_the_last_seed_must_not_exceed_the_largest():
    parse(GlueConfig, [*WORDS, "--seeds", "2", "--seed", str(2**63 - 2)])
    with pytest.raises(UserError, match="--seeds must be at most 1, not 2"):
        parse(GlueConfig, [*WORDS, "--seeds", "2", "--seed", str(2**63 - 1)])


def test_several_seeds_need_training():
    with pytest.raises(UserError, match="--seeds above 1 cannot be combined"):
        parse(GlueConfig, [*WORDS, "--seeds", "2", "--do_train", "False"])
