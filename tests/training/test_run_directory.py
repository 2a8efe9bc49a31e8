"""A run's directories: refused, cleared, claimed."""

import json
from pathlib import Path

import pytest

from configs.training import RunFlags
from training.run_directory import RunDirectory, changed_flags
from utils.errors import UserError


def flags(directory, **values):
    return RunFlags(output_dir=str(directory), **values)


def test_checkpoints_and_logs_may_be_apart(tmp_path):
    together = RunDirectory.of(flags(tmp_path))
    assert together.checkpoints == together.output == together.events.parent == tmp_path
    apart = RunDirectory.of(flags(tmp_path, checkpoint_path="c", log_dir="l"))
    assert (apart.checkpoints.name, apart.events, apart.output) == ("c", Path("l", tmp_path.name), tmp_path)
    loads = RunDirectory.of(flags(tmp_path, checkpoint_path="c", load_from="checkpoint"))
    assert loads.checkpoints == tmp_path


def test_a_directory_in_use_is_refused(tmp_path):
    directory = RunDirectory.of(flags(tmp_path))
    directory.check_unused(flags(tmp_path))
    RunDirectory.of(flags(tmp_path / "missing")).check_unused(flags(tmp_path / "missing"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"is not empty: .*--resume.*--overwrite_output_dir"):
        directory.check_unused(flags(tmp_path))
    for allowed in ("resume", "overwrite_output_dir"):
        directory.check_unused(flags(tmp_path, **{allowed: True}))


@pytest.mark.parametrize("choice", [{}, {"resume": True}, {"overwrite_output_dir": True}])
def test_runs_share_a_directory_for_logs_and_none_loses_a_file(choice, tmp_path):
    logs = str(tmp_path / "logs")
    first = RunDirectory.of(flags(tmp_path / "first", log_dir=logs))
    first.claim(flags(tmp_path / "first", log_dir=logs), {"lr": 1.0})
    for path in (first.output / "metrics.jsonl", first.events / "events.out.tfevents.1"):
        path.write_text("of the first run")
    second = flags(tmp_path / "second", log_dir=logs, **choice)
    directory = RunDirectory.of(second)
    directory.check_unused(second)
    directory.clear(second)
    directory.claim(second, {"lr": 2.0})
    assert json.loads((first.output / "run.json").read_text()) == {"lr": 1.0}
    assert json.loads((directory.output / "run.json").read_text()) == {"lr": 2.0}
    for path in (first.output / "metrics.jsonl", first.events / "events.out.tfevents.1"):
        assert path.read_text() == "of the first run"


def test_the_flag_of_the_directory_in_use_is_named(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    used = flags(tmp_path / "new", checkpoint_path=str(tmp_path / "c"))
    with pytest.raises(UserError, match=r"--checkpoint_path .*c is not empty"):
        RunDirectory.of(used).check_unused(used)


def test_only_the_files_of_runs_are_removed(tmp_path):
    for name in ("notes.txt", "metrics.jsonl", "latest", "features/a", "checkpoint-7/config.json", "phase2/latest"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    directory = RunDirectory.of(flags(tmp_path))
    for kept in (flags(tmp_path), flags(tmp_path, resume=True)):
        directory.clear(kept)
        assert (tmp_path / "metrics.jsonl").exists()
    directory.clear(flags(tmp_path, overwrite_output_dir=True))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "features/a"}


def test_claiming_stores_the_flags_and_warns_of_changes(tmp_path, capsys):
    directory = RunDirectory.of(flags(tmp_path / "new" / "run"))
    directory.claim(flags(tmp_path / "new" / "run"), {"lr": 1.0, "cuda_devices": (1, 2), "resume": False})
    assert json.loads((directory.output / "run.json").read_text())["cuda_devices"] == [1, 2]
    assert capsys.readouterr().err == ""
    resumed = flags(tmp_path / "new" / "run", resume=True)
    directory.claim(resumed, {"lr": 2.0, "cuda_devices": (1, 2), "resume": True})
    assert capsys.readouterr().err == "warning: the resumed run has other flags than before: --lr (was 1.0).\n"


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_run_file_is_replaced(content, tmp_path, capsys):
    (tmp_path / "run.json").write_text(content)
    RunDirectory.of(flags(tmp_path)).claim(flags(tmp_path, resume=True), {"lr": 2.0})
    assert json.loads((tmp_path / "run.json").read_text()) == {"lr": 2.0} and capsys.readouterr().err == ""


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        RunDirectory.of(flags(tmp_path / "file")).claim(flags(tmp_path / "file"), {})


def test_new_and_dropped_flags_are_no_changes():
    assert changed_flags({"old": 1, "lr": 1}, {"new": 2, "lr": 1}) == []
    assert changed_flags({"lr": 1, "overwrite_output_dir": True}, {"lr": 3, "overwrite_output_dir": False}) == [
        "--lr (was 1)"
    ]
