"""A run's directories: refused, cleared, claimed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.training import RunFlags
from tests.training.whole_runs import train
from training.run_directory import RunDirectory, locked
from utils.errors import UserError
from utils.file_lock import check_still_there


def flags(directory, **values):
    return RunFlags(output_dir=str(directory), **values)


def claim(run, settings):
    directory = RunDirectory.of(run)
    with directory.locked():
        directory.claim(run, settings)


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
    claim(flags(tmp_path / "first", log_dir=logs), {"lr": 1.0})
    for path in (first.output / "metrics.jsonl", first.events / "events.out.tfevents.1"):
        path.write_text("of the first run")
    second = flags(tmp_path / "second", log_dir=logs, **choice)
    directory = RunDirectory.of(second)
    directory.check_unused(second)
    directory.clear(second)
    claim(second, {"lr": 2.0})
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


def test_names_that_only_look_like_a_runs_stay(tmp_path):
    others = (
        "checkpoint-my-notes/a",
        "checkpoint-10.keep/a",
        "phase1_backup/checkpoint-3/a",
        "checkpoint-/a",
        "phase/a",
    )
    for name in (*others, ".checkpoint-notes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    RunDirectory.of(flags(tmp_path)).clear(flags(tmp_path, overwrite_output_dir=True))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["best/notes.txt", "checkpoint-3/thesis/a.tex", "tensorboard/mine", "phase1/best/n"])
def test_a_directory_with_foreign_files_is_refused_before_anything_is_removed(name, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    (tmp_path / "metrics.jsonl").touch()
    overwriting = flags(tmp_path, overwrite_output_dir=True)
    for method in (RunDirectory.of(overwriting).check_unused, RunDirectory.of(overwriting).clear):
        with pytest.raises(UserError, match=f"does not delete .*{name.split('/')[-2].split('-')[0]}"):
            method(overwriting)
    assert (tmp_path / name).exists() and (tmp_path / "metrics.jsonl").exists()


def test_links_are_removed_and_never_followed(tmp_path):
    outside = tmp_path / "outside"
    (outside / "checkpoint-7").mkdir(parents=True)
    (outside / "metrics.jsonl").touch()
    run = tmp_path / "run"
    run.mkdir()
    for name in ("phase1", "checkpoint-5", "tensorboard", "best", "latest", "run.json"):
        (run / name).symlink_to(outside if name != "run.json" else tmp_path / "missing")
    RunDirectory.of(flags(run)).clear(flags(run, overwrite_output_dir=True))
    assert [path.name for path in run.iterdir()] == ["phase1"]  # a link is no phase of this run
    assert (outside / "checkpoint-7").is_dir() and (outside / "metrics.jsonl").exists()


def test_everything_that_a_run_writes_is_cleared(tmp_path, records_dir):
    out = tmp_path / "run"
    train("eager", records_dir, out, *"--max_steps 2 --val_fraction 0.3 --model_save_every_n_iter 1".split())
    for leftover in (".checkpoint-2.partial", ".checkpoint-1.leaving", ".best.77.tmp", ".checkpoint-3.old.7.tmp"):
        (out / leftover).mkdir()
    (out / ".metrics.jsonl.partial").touch()
    overwriting = flags(out, overwrite_output_dir=True)
    RunDirectory.of(overwriting).check_unused(overwriting)
    RunDirectory.of(overwriting).clear(overwriting)
    assert list(out.iterdir()) == []


def test_claiming_stores_the_flags_and_warns_of_changes(tmp_path, capsys):
    run = flags(tmp_path / "new" / "run")
    claim(run, {"lr": 1.0, "cuda_devices": (1, 2), "resume": False})
    assert json.loads((tmp_path / "new/run/run.json").read_text())["cuda_devices"] == [1, 2]
    assert capsys.readouterr().err == ""
    resumed = flags(tmp_path / "new" / "run", resume=True)
    claim(resumed, {"lr": 2.0, "cuda_devices": (1, 2), "resume": True})
    assert capsys.readouterr().err == "warning: the resumed run has different flags than before: --lr (was 1.0).\n"


@pytest.mark.parametrize("content", ["{", "[1]", "", "[" * 100000])
def test_a_damaged_run_file_is_replaced(content, tmp_path, capsys):
    (tmp_path / "run.json").write_text(content)
    claim(flags(tmp_path, resume=True), {"lr": 2.0})
    assert json.loads((tmp_path / "run.json").read_text()) == {"lr": 2.0} and capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "latest"])
def test_a_directory_in_the_place_of_a_file_is_refused_at_the_start(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a directory"):
        claim(flags(tmp_path, resume=True), {})


def test_what_a_killed_run_left_is_removed(tmp_path):
    for leftover in (".checkpoint-2.partial", ".checkpoint-1.77.tmp", ".checkpoint-3.old.7.tmp", ".mine.tmp"):
        (tmp_path / leftover).mkdir()
    claim(flags(tmp_path, resume=True), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "run.json", "tensorboard"]


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"):
        claim(flags(tmp_path / "file"), {})


def test_a_run_that_ends_before_it_begins_leaves_no_directory(tmp_path):
    with pytest.raises(KeyError), RunDirectory.of(flags(tmp_path / "a/b")).locked():
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes").touch()
    with pytest.raises(KeyError), RunDirectory.of(flags(tmp_path)).locked():
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


HOLDER = """
import sys, time
from pathlib import Path
from utils.file_lock import locked_directory
with locked_directory(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        for second in (flags(tmp_path), flags(tmp_path, resume=True), flags(tmp_path, overwrite_output_dir=True)):
            with pytest.raises(UserError, match=r"--output_dir .* is in use by another run"), locked(second):
                raise AssertionError
        with locked(flags(tmp_path, do_train=False)):  # reads only
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(flags(tmp_path)), locked(flags(tmp_path)):  # one process may nest
        pass


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_directory_is_noticed(replaced, tmp_path):
    with locked(flags(tmp_path / "run")):
        check_still_there(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        if replaced:
            (tmp_path / "run").mkdir()
            (tmp_path / "run/.lock").touch()
        with pytest.raises(UserError, match="was deleted or replaced while this run"):
            check_still_there(tmp_path / "run")
    check_still_there(tmp_path / "run")  # not this process's any more
