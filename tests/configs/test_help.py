"""--help: one line of usage, the most used flags, groups with titles, every flag once, defaults that hold."""

import re

import pytest

from configs.cli import parse
from configs.convert import ConvertConfig
from configs.flag_specs import flags_of
from configs.glue import GlueConfig
from configs.infer import InferConfig
from configs.prepare import CleanConfig, InspectConfig, PretrainingDataConfig, VerifyConfig, VocabConfig
from configs.pretraining import PretrainingConfig
from configs.squad import SquadConfig, SquadDataConfig
from configs.training import RETIRED

TRAINING = [PretrainingConfig, SquadConfig, GlueConfig]
ALL = [*TRAINING, InferConfig, ConvertConfig, SquadDataConfig, PretrainingDataConfig, CleanConfig, VocabConfig,
       InspectConfig, VerifyConfig]  # fmt: skip


@pytest.fixture
def help_of(capsys, monkeypatch):
    def call(config_class, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as end:
            parse(config_class, ["--help"], prog="command.py", description="What it does.", retired=RETIRED)
        assert end.value.code == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("config_class", ALL, ids=lambda each: each.__name__)
def test_usage_is_one_line_and_every_flag_appears_once(help_of, config_class, columns):
    text = help_of(config_class, columns)
    assert text.startswith("usage: command.py [flags]\n\nWhat it does.\n")
    shown = re.findall(r"(?m)^  --(\w+)", text)
    assert sorted(shown) == sorted({*shown})
    names = {spec.name for spec in flags_of(config_class)} | {name.replace("-", "_") for name in RETIRED}
    assert names | {"help"} <= set(shown) <= names | {"help", "config"}
    for spec in flags_of(config_class):
        assert all(re.search(rf"--?{alias}\b", text) for alias in spec.aliases)


@pytest.mark.parametrize("config_class", ALL, ids=lambda each: each.__name__)
def test_help_has_no_empty_defaults_and_fits_the_terminal(help_of, config_class):
    text = help_of(config_class)
    assert "default: )" not in text and "None" not in text and ".:" not in text and "likewise" not in text
    free_lines = [line for line in text.splitlines() if "{" not in line]  # lists of choices are not broken
    assert max(map(len, free_lines)) <= 80


def test_flags_without_effect_come_last_with_what_to_use_instead(help_of):
    text = help_of(PretrainingConfig, 120)
    last = text[text.index("Accepted without effect") :]
    assert re.findall(r"(?m)^  --(\w+)", last) == [name.replace("-", "_") for name in RETIRED]
    assert "--metric_local                  losses and accuracies always cover all ranks;" in last


@pytest.mark.parametrize("config_class", [*TRAINING, InferConfig], ids=lambda each: each.__name__)
def test_the_most_used_flags_come_first(help_of, config_class):
    text = help_of(config_class)
    first = re.findall(r"(?m)^  --(\w+)", text)[: len(config_class.most_used)]
    assert first == list(config_class.most_used) and 10 <= len(first) <= 14
    assert "Most used:" in text and "\nModel:" in text


def default_of(text, name):
    (entry,) = re.findall(rf"(?ms)^  --{name} (.*?)(?=^  --|^$)", text)
    return re.search(r"default: ([^;)]*)", re.sub(r"\s+", " ", entry))[1]


@pytest.mark.parametrize(
    ("config_class", "rows", "val_rows", "rate"),
    [(PretrainingConfig, "8", "32", "0.001"), (SquadConfig, "32", "64", "3e-05"), (GlueConfig, "32", "32", "5e-05")],
)
def test_defaults_are_those_of_the_command(help_of, config_class, rows, val_rows, rate):
    text = help_of(config_class, 120)
    assert default_of(text, "train_batch_size") == rows
    assert default_of(text, "val_batch_size") == val_rows
    assert default_of(text, "lr") == rate
    assert default_of(text, "num_hidden_layers") == "the checkpoint's, else 24"
    assert default_of(text, "load_optimizer_state") == str(config_class is PretrainingConfig)
