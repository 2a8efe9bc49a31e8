"""Command lines: spellings, booleans, files, subcommands, and messages that say what to do."""

import errno
import importlib
import json
import sys
from dataclasses import dataclass

import pytest

from configs.cli import changed_flags, flag, parse, parse_command, run, section, to_flat_dict
from utils.errors import UserError


@dataclass(frozen=True)
class Inner:
    """The inner section."""

    train_batch_size: int = flag(8, "rows", aliases=("batch",), unit="sequences")
    kind: str = flag("a", "kind", choices=("a", "b"))


@dataclass(frozen=True)
class Outer:
    inner: Inner = section(Inner)
    lr: float = flag(1e-3, "rate", aliases=("learning_rate",))
    epochs: int | None = flag(None, "passes", aliases=("e",))
    use_fp16: bool = flag(False, "half")
    with_cuda: bool | None = flag(None, "gpu")
    input_file: tuple[str, ...] = flag((), "paths")

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError("--lr must be above 0.")


@pytest.mark.parametrize("spelling", ["--train_batch_size", "--train-batch-size", "--batch"])
def test_every_spelling_of_a_flag(spelling):
    assert parse(Outer, [spelling, "3"]).inner.train_batch_size == 3
    assert parse(Outer, [f"{spelling}=3"]).inner.train_batch_size == 3


@pytest.mark.parametrize(
    ("words", "value"),
    [([], False), (["--use_fp16"], True), (["--use-fp16", "True"], True), (["--use_fp16=False"], False)],
)
def test_booleans_accept_a_value_or_none(words, value):
    assert parse(Outer, words).use_fp16 is value


def test_an_unset_boolean_stays_unset_and_lists_take_several_values():
    config = parse(Outer, ["--input_file", "x", "y", "-e", "5"])
    assert (config.with_cuda, config.input_file, config.epochs) == (None, ("x", "y"), 5)


def test_lists_take_all_values_whether_given_together_or_one_by_one(tmp_path):
    words = ["--input_file", "x", "--input-file=y", "--input_file", "z", "v"]
    assert parse(Outer, words).input_file == ("x", "y", "z", "v")
    assert parse(Outer, []).input_file == ()  # nothing is left of an earlier call
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"input_file": ["p", "q"]}))
    assert parse(Outer, ["--config", str(path), *words]).input_file == ("x", "y", "z", "v")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_batch", "3"], "--train_batch is not a flag here. Did you mean --train_batch_size"),
        (["--lr", "fast"], "'fast' is not a number"),
        (["--lr", "-1"], "--lr must be above 0"),
        (["--use_fp16=maybe"], "neither True nor False"),
        (["--kind", "c"], "invalid choice"),
        (["stray"], "'stray' does not belong to a flag"),
    ],
)
def test_a_mistake_names_its_flag(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse(Outer, words)


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"learning-rate": 0.5, "batch": 2, "use_fp16": True, "input_file": ["p"]}))
    config = parse(Outer, ["--config", str(path), "--batch", "7"])
    assert (config.lr, config.inner.train_batch_size, config.use_fp16, config.input_file) == (0.5, 7, True, ("p",))


def test_config_reads_what_to_flat_dict_returns(tmp_path):
    config = parse(Outer, ["--batch", "7", "--kind", "b", "--input_file", "x", "y"])
    path = tmp_path / "run.json"
    path.write_text(json.dumps(to_flat_dict(config)))
    assert parse(Outer, ["--config", str(path)]) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"lrr": 1}', "Did you mean"), ('{"lr": "x"}', "not a number"), ('{"lr": [1]}', "one value")],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse(Outer, ["--config", str(path)])


@pytest.mark.parametrize("word", ["\u2013\u2013lr", "\u2014lr", "\u2212lr", "\u2013-lr"])
def test_a_flag_copied_with_another_dash_is_named(word):
    with pytest.raises(UserError, match=f"^{word} does not begin with a hyphen.*: type --lr\\.$"):
        parse(Outer, ["--input_file", "x", word, "3"])


def test_a_retired_flag_gives_one_warning(capsys):
    parse(Outer, ["--node_ips", "a", "b", "--lr", "1"], retired={"node_ips": "use the launcher."})
    assert capsys.readouterr().err.count("--node_ips has no effect here: use the launcher.") == 1


def test_an_unknown_subcommand_lists_the_commands():
    assert parse_command({"go": (Outer, "goes")}, ["go", "--lr", "2"])[1].lr == 2
    with pytest.raises(UserError, match="use one of go"):
        parse_command({"go": (Outer, "goes")}, ["gone"])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no."), 2, "error: no."),
        (PermissionError(errno.EACCES, "denied", "its/file"), 2, "its/file: permission denied"),
        (OSError(errno.ENOSPC, "full", "disk/file"), 2, "disk/file: no space left on the disk"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("none", name="oneflow.nn"), 2, f"oneflow is not installed for {sys.executable}: "),
    ],
)
def test_run_ends_an_error_with_one_line_and_its_exit_code(capsys, error, code, text):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == code
    assert text in capsys.readouterr().err


def test_a_missing_module_of_the_project_is_a_fault_and_not_a_users_mistake():
    with pytest.raises(ModuleNotFoundError):
        run(lambda: importlib.import_module("data.no_such_module"))


def test_new_and_dropped_flags_are_no_changes():
    assert changed_flags({"old": 1, "lr": 1}, {"new": 2, "lr": 1}) == []
    assert changed_flags({"lr": 1, "files": ["a"]}, {"lr": 3, "files": ("a",)}) == ["--lr (was 1)"]


def test_a_section_can_have_other_defaults():
    @dataclass(frozen=True)
    class Other:
        inner: Inner = section(Inner, train_batch_size=7)

    assert parse(Other, ["--kind", "b"]).inner == Other().inner.__class__(7, "b")
    assert parse(Other, ["--batch", "9"]).inner.train_batch_size == 9
    assert Outer().inner.train_batch_size == 8
