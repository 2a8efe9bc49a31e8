"""Places that fail: a disk that fills up, read-only and vanishing directories, two runs at once, closed outputs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.report import Attack
from benchmarks.faults.samples import MODEL, ROOT, environment, run, write_text
from utils.checkpoints import checkpoints, newest_checkpoint

_LIMIT = 180.0  # seconds of one command


def attack_places(samples: Path, work: Path) -> list[Attack]:
    """Runs every attack of this module once."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    attacks = [
        _full_disk(samples, work),
        _odd_directories(samples, work),
        _vanishing(samples, work),
        _two_at_once(samples, work),
        _closed_outputs(samples, work),
    ]
    shutil.rmtree(work, ignore_errors=True)
    return attacks


def _training(samples: Path, output: Path, steps: int = 6, script: str = "run_eager_pretraining.py") -> list[str]:
    words = ["--ofrecord_path", str(samples / "ofrecord"), "--output_dir", str(output), "--max_steps", str(steps)]
    return [script, *MODEL, *words, "--model_save_every_n_iter", "2", "--loss_print_every_n_iters", "1"]


def _preparing(samples: Path, output: Path) -> list[str]:
    words = ["--input_file", str(samples / "text.txt"), "--vocab_file", str(samples / "vocab.txt")]
    words += ["--max_seq_length", "24", "--max_predictions_per_seq", "4", "--num_shards", "2", "--num_workers", "1"]
    return ["prepare_data.py", "pretraining", *words, "--output_dir", str(output), "--dupe_factor", "40"]


def _expect_sentence(attack: Attack, what: str, words: list[str], expected: str = "") -> None:
    """Runs a command that must fail with one sentence."""
    try:
        ended = run(*words, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        attack.add("hang", what)
        return
    _check_sentence(attack, what, ended.returncode, ended.stderr, expected)


def _check_sentence(attack: Attack, what: str, code: int | None, errors: str, expected: str = "") -> None:
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    good = code == 2 and len(sentences) == 1 and "Traceback" not in errors and expected in errors
    attack.add("clear error" if good else "fault", f"{what}: exit code {code}: {errors[-500:]}")


@contextmanager
def _small_disk(path: Path, kilobytes: int) -> Iterator[Path | None]:
    """A file system in memory of that size; None if mounting is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def _full_disk(samples: Path, work: Path) -> Attack:
    """Fills disks at later and later writes; with free space, each command must then finish."""
    attack = Attack("full disk")
    for number, kilobytes in enumerate((4, 16, 64, 100, 160, 240, 360, 540)):
        for what, words, again in (
            ("training", _training(samples, work / "disk/run"), ["--resume"]),
            ("preparing", _preparing(samples, work / "disk/set"), []),
        ):
            with _small_disk(work / "disk", kilobytes) as disk:
                if disk is None:
                    print("full disk: mounting is not allowed here, so nothing was tried")
                    return attack
                ended = run(*words, timeout=_LIMIT)
                if ended.returncode == 0:
                    attack.add("right")
                    continue
                _check_sentence(attack, f"{what} on {kilobytes} kB", ended.returncode, ended.stderr, "no space left")
                for checkpoint in checkpoints(disk / "run"):
                    complete = (checkpoint / "training_state/state.json").exists()
                    attack.check(complete, f"{checkpoint} is incomplete on {kilobytes} kB ({number})")
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                ended = run(*words, *again, timeout=_LIMIT)
                attack.check(ended.returncode == 0, f"{what} after {kilobytes} kB: {ended.stderr[-500:]}")
    return attack


def _odd_directories(samples: Path, work: Path) -> Attack:
    """Output directories that cannot be written."""
    attack = Attack("odd directories")
    (work / "file").touch()
    (work / "loop").symlink_to(work / "loop")
    odd = [Path("/dev/null/x"), work / "file", work / "file/x", Path("/proc/x"), work / ("x" * 300), work / "loop"]
    with _small_disk(work / "read-only", 64) as disk:
        if disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False)
            odd += [disk, disk / "x"]
        for directory in odd:
            _expect_sentence(attack, f"training in {directory}", _training(samples, directory))
            _expect_sentence(attack, f"preparing in {directory}", _preparing(samples, directory))
            text = str(samples / "text.txt")
            vocab = [
                "prepare_data.py",
                "vocab",
                "--input_file",
                text,
                "--vocab_file",
                str(directory / "v"),
                "--vocab_size",
            ]
            _expect_sentence(attack, f"a vocabulary in {directory}", [*vocab, "150"])
            convert = ["convert_checkpoint.py", "--input", str(samples / "hf"), "--output", str(directory / "c")]
            _expect_sentence(attack, f"conversion to {directory}", convert)
    for name in ("latest", "metrics.jsonl", "run.json", "checkpoint-2/training_state/state.json"):
        shutil.rmtree(work / "run", ignore_errors=True)
        shutil.copytree(samples / "run", work / "run")
        path = work / "run" / name
        path.unlink()
        path.mkdir()
        if "state" in name:
            (work / "run/latest").write_text("checkpoint-2\n")
        _expect_sentence(attack, f"{name} is a directory", [*_training(samples, work / "run"), "--resume"], path.name)
    return attack


@contextmanager
def _started(words: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    with log.open("w") as output:
        command = [sys.executable, str(ROOT / words[0]), *words[1:]]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not (path.exists() and (path.is_dir() or path.stat().st_size)) and time.monotonic() < deadline:
        if process.poll() is not None:
            return
        time.sleep(0.02)


def _vanishing(samples: Path, work: Path) -> Attack:
    """Output directories that are deleted while a command writes to them."""
    attack = Attack("vanishing directories")
    write_text(work / "long.txt", 20000)
    preparing = _preparing(samples, work / "vanishing")
    preparing[preparing.index(str(samples / "text.txt"))] = str(work / "long.txt")
    for script in ("run_eager_pretraining.py", "run_pretraining.py"):
        with _started(_training(samples, work / "vanishing", 100000, script), work / "log") as process:
            _wait_for(work / "vanishing/metrics.jsonl", process)
            shutil.rmtree(work / "vanishing", ignore_errors=True)
            _ended(attack, f"{script} without its directory", process)
        attack.check(not (work / "vanishing").exists(), f"{script} made its directory again")
        shutil.rmtree(work / "vanishing", ignore_errors=True)
    for _ in range(3):
        with _started(preparing, work / "log") as process:
            _wait_for(work / "vanishing", process)
            time.sleep(0.4)
            shutil.rmtree(work / "vanishing", ignore_errors=True)
            _ended(attack, "preparing without its directory", process)
        shutil.rmtree(work / "vanishing", ignore_errors=True)
    return attack


def _ended(attack: Attack, what: str, process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        attack.add("hang", what)
        return
    _check_sentence(attack, what, process.returncode, errors)


def _two_at_once(samples: Path, work: Path) -> Attack:
    """Two commands in one directory: one is refused, the other is not disturbed."""
    attack = Attack("two at once")
    output = work / "shared"
    with _started(_training(samples, output, 100000), work / "log") as process:
        _wait_for(output / "metrics.jsonl", process)
        for more in ([], ["--resume"], ["--overwrite_output_dir"]):
            _expect_sentence(
                attack, f"a second run with {more}", [*_training(samples, output), *more], "in use by another run"
            )
        attack.check(process.poll() is None, "the first run has ended")
    ended = run(*_training(samples, output, newest_step(output) + 2), "--resume", timeout=_LIMIT)
    attack.check(ended.returncode == 0, f"resumed after kill -9: {ended.stderr[-500:]}")
    for words, name in (
        (_training(samples, work / "race", 30), "training"),
        (_preparing(samples, work / "set"), "preparing"),
    ):
        with _started(words, work / "log 1") as first, _started(words, work / "log 2") as second:
            errors = [process.communicate(timeout=_LIMIT)[1] for process in (first, second)]
        codes = sorted([first.returncode, second.returncode])
        attack.check(codes == [0, 2] and "Traceback" not in "".join(errors), f"{name} at once: {codes}, {errors}")
    rows = (work / "race/metrics.jsonl").read_text().count("\n")
    attack.check(rows == 30, f"the run that was not refused has {rows} of 30 rows")
    return attack


def newest_step(directory: Path) -> int:
    """The step of the newest checkpoint."""
    newest = newest_checkpoint(directory)
    return int(newest.name.split("-")[1]) if newest else 0


def _closed_outputs(samples: Path, work: Path) -> Attack:
    """Readers of the output that end, never read fast, or never exist."""
    attack = Attack("closed outputs")
    command = [sys.executable, str(ROOT / "run_eager_pretraining.py")]
    for what, stdout, code in (
        ("no streams", None, 0),
        ("a closed pipe", 0, 141),
        ("a slow reader", 1, 0),
        ("a full disk", 2, 141),
    ):
        output = work / "outputs"
        shutil.rmtree(output, ignore_errors=True)
        words = _training(samples, output, 100000 if code else 20)[1:]
        if stdout is None:
            process = subprocess.Popen(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command, *words], env=environment())
        else:
            target = open("/dev/full", "w") if stdout == 2 else subprocess.PIPE  # noqa: SIM115
            process = subprocess.Popen([*command, *words], stdout=target, stderr=subprocess.DEVNULL, env=environment())
        if process.stdout and stdout == 0:
            process.stdout.readline()
            process.stdout.close()
        elif process.stdout:
            threading.Thread(target=_read_slowly, args=(process.stdout.fileno(),), daemon=True).start()
        try:
            found: int | str = process.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            found = "a hang"
        attack.check(found == code and bool(checkpoints(output)), f"{what}: exit code {found} instead of {code}")
    return attack


def _read_slowly(handle: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(handle, 20):
            time.sleep(0.02)
